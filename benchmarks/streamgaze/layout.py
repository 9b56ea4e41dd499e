"""Where things lie in a StreamGaze folder as people really have it: found by name, wherever they are below it.

    DIR/qa/*.json                           or DIR/dataset/qa, DIR/dataset, DIR itself: the first that has any
    DIR/videos/original_video/STEM.mp4      flat, as StreamGaze's scripts want it; also below DIR/dataset/
    DIR/videos/videos_egtea_original/...    as the release's archives unpack, nested or not; other containers too
    STEM_fixation_filtered.csv              in DIR, DIR/STEM/, metadata/STEM/, final_data/NAME/metadata/STEM/, next to
                                            the video; STEM_fixation_dataset.csv (not scene-filtered) without one
    gaze/STEM_gaze.csv, gaze/STEM.csv       raw gaze in any format of `stream.trackers`; also gaze/STEM/ (a folder of
                                            a recording), and STEM_gaze.* anywhere
    metadata/egtea.csv, total_metadata.csv  merged episodes: context, without gaze positions

Videos with the gaze drawn on them (`gaze_viz_video/`, `videos_*_viz/`) have the same file names. They are never taken
for the originals: a model that is to do without gaze would see it. Folders whose name starts with a dot are not looked
into; links are followed.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from gazeqwen.errors import InputError
from stream.summary import VIDEO_SUFFIXES
from stream.trackers import FORMATS
from stream.trackers.rows import header_of

FIXATION_NAMES = ("{stem}_fixation_filtered.csv", "{stem}_fixation_dataset.csv")
GAZE_FOLDERS = ("gaze", "raw_gaze")
HOLOASSIST_FOLDER = "Export_py"  # SESSION/Export_py/Video_pitchshift.mp4: the session is the video's name
EPISODE_COLUMN = "representative_object"
_FIXATIONS = "streamgaze"  # the tracker format of a fixation file


def video_name(path: str) -> str:
    """The name a video goes by: the file's name without folders; for HoloAssist's own layout, the session's."""
    file = PurePosixPath(path.strip().replace("\\", "/"))
    session = file.parent.parent.name
    return session + file.suffix if session and file.parent.name == HOLOASSIST_FOLDER else file.name


def stem_of(video: str) -> str:
    """A video's name without a container's suffix, in one Unicode form (macOS and JSON files often differ in it)."""
    path = PurePosixPath(video)
    return unicodedata.normalize("NFC", path.stem if path.suffix.lower() in VIDEO_SUFFIXES else video)


class Layout:
    """The files below a folder, indexed once when made. Paths that come out begin with `root` as it was given.

    Raises:
        InputError: no such folder, or one below it that can't be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing at this path"
            raise InputError(self.root, expected="a folder with qa/ and videos/", found=found)
        self._files: list[Path] = []
        self._folders: list[Path] = []
        self._sniffed: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
        self._walk()

    def _walk(self) -> None:
        def refuse(error: OSError) -> None:
            source = error.filename or self.root
            raise InputError(source, expected="a folder that can be listed", found=error.strerror or str(error))

        seen = set()
        for name, folders, files in os.walk(self.root, followlinks=True, onerror=refuse):
            real = os.path.realpath(name)
            if real in seen:  # a link back to where we have been
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            self._folders += [Path(name, folder) for folder in folders]
            self._files += [Path(name, file) for file in sorted(files) if not file.startswith(".")]

    def relative(self, path: Path) -> str:
        """`path` below the folder, with forward slashes: the same wherever the folder lies."""
        return path.relative_to(self.root).as_posix()

    # -- questions and metadata ----------------------------------------------------------------------------------------

    @property
    def qa_files(self) -> tuple[Path, ...]:
        """Every .json file of the first folder that has any; which of them hold questions is told by reading them."""
        root = self.root
        for folder in (root / "qa", root / "dataset" / "qa", root / "dataset", root):
            found = [
                file
                for file in self._files
                if file.parent == folder and file.suffix.lower() == ".json" and file.name != "manifest.json"
            ]
            if found:
                return tuple(found)
        return ()

    @cached_property
    def metadata_files(self) -> tuple[Path, ...]:
        """Tables of merged episodes, by name and header."""
        named = (
            file
            for file in self._files
            if file.suffix.lower() == ".csv"
            and (
                file.parent.name == "metadata"
                or file.name.startswith("total_metadata")
                or "_fixation_merged_filtered" in file.name
            )
        )
        return tuple(file for file in named if EPISODE_COLUMN in header_of(file))

    # -- videos --------------------------------------------------------------------------------------------------------

    @cached_property
    def _videos(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for file in self._files:
            if file.suffix.lower() in VIDEO_SUFFIXES:
                found[stem_of(video_name(self.relative(file)))].append(file)
        return dict(found)

    def _is_overlay(self, file: Path) -> bool:
        folders = file.relative_to(self.root).parts[:-1]
        return any(name == "gaze_viz_video" or name.lower().endswith("_viz") for name in folders)

    def _video_rank(self, file: Path, video: str) -> tuple[int, int]:
        """The suffix asked for goes first, then the layouts in the order of the module's docstring."""
        folders = file.relative_to(self.root).parts[:-1]
        if file.parent.name == "original_video":
            place = 0
        elif file.parent.name == "videos":
            place = 1
        else:
            place = 2 if any(name.startswith("videos") for name in folders) else 3
        return int(file.suffix.lower() != PurePosixPath(video).suffix.lower()), place

    def find_video(self, video: str) -> Path:
        """The file of a video as the QA files name it.

        Raises:
            InputError: there is none, only one with gaze drawn on it, or several different ones in equal places.
        """
        candidates = self._videos.get(stem_of(video), [])
        originals = sorted(
            (file for file in candidates if not self._is_overlay(file)), key=lambda file: self._video_rank(file, video)
        )
        if not originals:
            raise InputError(
                self.root / "videos" / video,
                expected="the original video, in the folder or below it",
                found=f"only {self.relative(candidates[0])}, with gaze drawn on it" if candidates else "no such file",
                fix="unpack the original videos into videos/",
            )
        best = [file for file in originals if self._video_rank(file, video) == self._video_rank(originals[0], video)]
        if len({file.stat().st_size for file in best}) > 1:
            raise InputError(
                self.root / "videos" / video,
                expected="one video of this name",
                found=f"different ones: {', '.join(self.relative(file) for file in best)[:200]}",
                fix="keep the right one",
            )
        return best[0]

    # -- gaze ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in (*self._files, *self._folders):
            found[unicodedata.normalize("NFC", path.name)].append(path)
        return dict(found)

    @cached_property
    def _gaze_by_stem(self) -> dict[str, list[Path]]:
        """Candidates for raw gaze: NAME_gaze.* anywhere, then NAME.* and NAME/ in a folder for gaze."""
        suffixed: dict[str, list[Path]] = defaultdict(list)
        plain: dict[str, list[Path]] = defaultdict(list)
        folders = set(self._folders)
        for path in (*self._files, *self._folders):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                continue
            name = path.name if path in folders else path.name.split(".")[0] if path.suffix == ".gz" else path.stem
            name = unicodedata.normalize("NFC", name)
            if name.endswith("_gaze"):
                suffixed[name.removesuffix("_gaze")].append(path)
            if path.parent.name in GAZE_FOLDERS:
                plain[name].append(path)
        return {stem: suffixed.get(stem, []) + plain.get(stem, []) for stem in {*suffixed, *plain}}

    def _gaze_candidates(self, video: str) -> list[tuple[Path, tuple[str, ...]]]:
        """(path, the formats its content fits); looked into once."""
        stem = stem_of(video)
        if stem not in self._sniffed:
            self._sniffed[stem] = [
                (path, tuple(name for name, entry in FORMATS.items() if entry.sniff(path)))
                for path in self._gaze_by_stem.get(stem, [])
            ]
        return self._sniffed[stem]

    def samples_file(self, video: str) -> Path | None:
        """The raw gaze of a video, or None. A file in a gaze folder whose format is not known is returned too: reading
        it then says what is wrong with it."""
        candidates = [(path, formats) for path, formats in self._gaze_candidates(video) if formats != (_FIXATIONS,)]
        known = [path for path, formats in candidates if formats]
        return known[0] if known else candidates[0][0] if candidates else None

    def fixations_file(self, video: str) -> Path | None:
        """The fixation file of a video, or None; scene-filtered ones go first."""
        stem = stem_of(video)
        for name in FIXATION_NAMES:
            found = [path for path in self._by_name.get(name.format(stem=stem), []) if path.is_file()]
            if found:
                return min(found, key=lambda path: self._fixation_rank(path, stem))
        return next((path for path, formats in self._gaze_candidates(video) if formats == (_FIXATIONS,)), None)

    def _fixation_rank(self, path: Path, stem: str) -> int:
        folders = path.relative_to(self.root).parts[:-1]
        if folders in ((), ("dataset",)):
            return 0
        if unicodedata.normalize("NFC", path.parent.name) == stem:
            places = {(): 1, ("metadata",): 2}
            return places.get(folders[:-1], 3)
        return 4
