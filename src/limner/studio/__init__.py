"""The studio: a page on which pictures are painted and kept, and the job server behind it.

    page, client -> server -> store     what was asked for, and what came of it
                      |
                      +-> workers       one process per device; the only ones that import torch

The server holds no model and decodes nothing but uploads; it answers within a second of its start.
What is queued lies in a database, so that a server that is killed goes on where it was. A worker
that dies takes down the job that it was at, and no other.
"""
