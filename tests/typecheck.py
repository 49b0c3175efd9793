"""The shape and type checker that tests install on the package; the numeric tower lets lr=1 pass for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
