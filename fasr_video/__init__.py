"""fasr-video: camera footage in, a case of faces, candidates and reports out."""

__version__ = "0.1.0"
