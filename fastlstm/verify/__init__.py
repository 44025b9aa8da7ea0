"""Comparing a model here with the runtime that its file comes from; used by ``verify_command``.

``layer_outputs``: what every layer returns here; ``runtimes``: asks another runtime, in a process of its own, which runs
``child``; ``comparison``: the differences; ``meaning``: what today's Keras takes the file for.
"""
