"""Analysis: every measure at every checkpoint of a run, cached, and the transition located from them.

`grokinterp.analyze` is `timeline.analyze`; it returns an `Analysis` (module `result`).
"""
