"""Backends: modules with the same few verbs over plain arrays.

``reference`` (plain NumPy, the executable specification) and ``cpu`` (compiled). Verbs: ``prepare(weights)``,
``lstm_forward(spec, weights, x, h, c, mask, dropout)``, ``activate(activation, x)``. ``selector.select`` picks one.
"""
