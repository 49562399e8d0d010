"""Looking inside a model: its codes, transport plans and doubts about a scan.

Arrays and tables; `pictures` and `page` alone draw. Everything starts from a `Trace`, which
`l2gnet_core.predict.predict_slices` fills while it segments, so nothing is computed twice.
"""
