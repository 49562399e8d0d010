"""Inspection of a model on a scan: its codes, transport plans and doubts.

Only `pictures` and `page` draw; all else gives arrays and tables. Everything is computed from a
`Trace`, which `l2gnet_core.segmenting.predict.segment` can fill while it segments, so that the
network runs once.
"""
