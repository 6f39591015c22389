"""The class through which all code opens a gallery; it reports a damaged database as such."""

from __future__ import annotations

from collections.abc import Sequence

from fasr_video.gallery import index
from fasr_video.gallery.inspect import first_problem
from fasr_video.gallery.records import Removal
from fasr_video.gallery.store import GalleryStore, delete_index
from fasr_video.sqlite import raise_if_damaged


class Gallery(GalleryStore):
    """An open gallery. Use `Gallery.create` or `Gallery.open`, in a with statement."""

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        remedy = "restore it from a copy; `fasr-video gallery check` lists all problems"
        try:
            raise_if_damaged(error, lambda: first_problem(self), self.folder, remedy)
        finally:
            super().__exit__(_, error, __)

    def remove(
        self,
        images: Sequence[str],
        why: str,
        subjects: Sequence[str] = (),
        by: str = "",
        *,
        role: str = "",
    ) -> Removal:
        """Remove photographs by SHA-256, then search all files of the gallery for their data.

        They are removed from rows, free pages, write-ahead log and index. Subjects without any
        photograph left are removed as well, and so are those of `subjects` that never had one. If
        this is killed, the next process that opens the gallery for writing finishes it.
        """
        # The index is deleted first, so that a kill at any point leaves no index with removed data.
        delete_index(self.folder)
        with self.transaction():
            removed = self._delete(images, why, subjects)
            counts = {"why": why, "subjects": len(removed.subjects), "images": len(removed.images)}
            self.log("removed", counts, by, role)
        self._purge()
        index.rebuild(self)
        return self._prove_removal(removed)
