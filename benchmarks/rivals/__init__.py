"""Other libraries that calculate an LSTM, one adapter each, timed beside fastlstm by ``benchmarks.bench_rivals``.

An adapter is a module with ``versions()`` and ``make(work, data)`` (see ``workload``); a process of its own imports it, in an
environment of its own (``requirements/<adapter>.txt``). None of them but ``ours`` imports fastlstm.
"""
