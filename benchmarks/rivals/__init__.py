"""Other libraries that calculate an LSTM, one adapter each, timed beside fastlstm by ``benchmarks.bench_rivals``.

An adapter is a module with ``versions()`` and ``make(work, data, folder)`` (see ``workload``); a process of its own imports it,
in an environment of its own (``requirements/<adapter>.txt``). It may have ``remark(work, way)``: what the table must say of a way
beside its time. None of them but ``ours`` imports fastlstm.
"""
