"""The studio: a web page for painting and keeping pictures, and the job server behind it.

    page, client -> server -> store     requests and results
                      |
                      +-> workers       one process per device; the only ones that import torch

The server holds no model and decodes nothing but uploads; it answers within a second of its start.
The queue is in a database, so that a server that is killed continues where it was. A worker that
dies takes down the job that it was painting, and no other.
"""
