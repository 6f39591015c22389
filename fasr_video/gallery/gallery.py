"""A gallery as everybody opens it: its store, its index, and damage told where it explains an error."""

from __future__ import annotations

from collections.abc import Sequence

from fasr_video.gallery import index
from fasr_video.gallery.inspect import damage
from fasr_video.gallery.records import Removal
from fasr_video.gallery.store import GalleryStore, drop_index
from fasr_video.sqlite import raise_if_damaged


class Gallery(GalleryStore):
    """An open gallery. Use `Gallery.create` or `Gallery.open`, in a with statement."""

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        remedy = "restore it from a copy; `fasr-video gallery check` tells the rest"
        try:
            raise_if_damaged(error, lambda: damage(self), self.folder, remedy)
        finally:
            super().__exit__(_, error, __)

    def remove(
        self,
        images: Sequence[str],
        why: str,
        subjects: Sequence[str] = (),
        by: str = "",
        role: str = "",
    ) -> Removal:
        """Remove photographs, by SHA-256, from rows, pages, write-ahead log and index; then search all files for them.

        Subjects without any left go with them, and what is said about them; so do those of `subjects` that never had
        one enrolled.

        Killed in the middle, the next one to open the gallery for writing finishes it.
        """
        drop_index(self.folder)  # first: it must not outlive what it holds, whenever a kill comes
        with self.transaction():
            gone = self._delete(images, why, subjects)
            counts = {"why": why, "subjects": len(gone.subjects), "images": len(gone.images)}
            self.log("removed", counts, by, role)
        self._purge()
        index.write(self)
        return self._proven(gone)
