"""Where each file of a run lives, how it is written and read, and whether a stage is done.

    files    atomic writes, removal that a kill cannot hurt, JSON
    stamps   a stage's folder: its fingerprint, and the hash of each file that it left
    arrays   numpy files: read with their faults in words, made with their room on the disk
    vetting  Parquet files of others, tried in a process of their own
    lock     one process at a time writes a run

Every write is atomic: a reader sees the old file, the new one or none, never half of one. This room
touches no file that it did not make.
"""

from mql4grec.artifacts.arrays import load_array, load_arrays, new_array
from mql4grec.artifacts.files import (
    atomic_path,
    names_in,
    reading,
    remove,
    remove_halves,
    scratch_folder,
    sync,
    write_json,
    write_text,
)
from mql4grec.artifacts.lock import sole_writer
from mql4grec.artifacts.stamps import (
    STAMP,
    close_stage,
    copy_stage,
    fingerprint,
    open_stage,
    read_json,
    read_stamp,
    require,
    require_own,
    told_of,
)
from mql4grec.artifacts.vetting import vet_parquet

__all__ = [
    "STAMP",
    "atomic_path",
    "close_stage",
    "copy_stage",
    "fingerprint",
    "load_array",
    "load_arrays",
    "names_in",
    "new_array",
    "open_stage",
    "read_json",
    "read_stamp",
    "reading",
    "remove",
    "remove_halves",
    "require",
    "require_own",
    "scratch_folder",
    "sole_writer",
    "sync",
    "told_of",
    "vet_parquet",
    "write_json",
    "write_text",
]
