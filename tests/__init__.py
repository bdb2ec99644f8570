"""The tests, and what checks annotations: as the typing specification has it, an int is a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
