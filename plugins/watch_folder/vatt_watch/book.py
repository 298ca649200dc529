"""Every clip of the watched folders in memory, beside the state on disk: what waits, what is under way, which names and
contents are taken. Changes go through `save` and `forget`, which keep both the same."""

from __future__ import annotations

from vatt_watch.state import UNDER_WAY, WAITING, Clip, WatchedFolder, WatchState

Place = tuple[int, str]
"""A clip by its folder's id and its path below it."""


class Book:
    """folders by id, clips by place; `waiting` and `under_way` in the order in which they came."""

    def __init__(self, state: WatchState) -> None:
        self.state = state
        self.folders: dict[int, WatchedFolder] = {}
        self.clips: dict[Place, Clip] = {}
        self.waiting: dict[Place, None] = {}
        self.under_way: dict[Place, None] = {}
        self._names: dict[tuple[str, str], Place] = {}
        self._recipes: dict[str, set[Place]] = {}
        self._indexed: dict[Place, tuple[tuple[str, str] | None, str]] = {}

    def reload(self) -> None:
        """Take everything from the state again."""
        self.folders = {folder.id: folder for folder in self.state.folders()}
        for part in (self.clips, self.waiting, self.under_way, self._names, self._recipes, self._indexed):
            part.clear()
        for clip in self.state.clips():
            if clip.folder in self.folders:
                self.clips[place_of(clip)] = clip
                self._index(clip)

    def save(self, clip: Clip) -> None:
        self.state.save(clip)
        self.clips[place_of(clip)] = clip
        self._index(clip)

    def forget(self, clip: Clip) -> None:
        self.state.forget(clip)
        self._unindex(place_of(clip))
        self.clips.pop(place_of(clip), None)

    def others_of(self, clip: Clip, recipe: str) -> list[Clip]:
        """Other clips with the same content and settings."""
        return [self.clips[place] for place in self._recipes.get(recipe, ()) if place != place_of(clip)]

    def name_is_taken(self, clip: Clip, base: str) -> bool:
        """Whether the results of another clip, in the same folder, have that begin of their names."""
        key = self._name(clip, base)
        return self._names.get(key, place_of(clip)) != place_of(clip)

    def _name(self, clip: Clip, base: str) -> tuple[str, str]:
        # Many file systems do not tell capitals apart.
        return str(self.folders[clip.folder].destination(clip.path)), base.casefold()

    def _index(self, clip: Clip) -> None:
        place = place_of(clip)
        waiting, under_way = place in self.waiting, place in self.under_way
        self._unindex(place, keep=(waiting and clip.state == WAITING) or (under_way and clip.state in UNDER_WAY))
        if clip.state == WAITING:
            self.waiting[place] = None
        elif clip.state in UNDER_WAY:
            self.under_way[place] = None
        name = self._name(clip, clip.base) if clip.base else None
        if name is not None:
            self._names[name] = place
        if clip.recipe:
            self._recipes.setdefault(clip.recipe, set()).add(place)
        self._indexed[place] = (name, clip.recipe)

    def _unindex(self, place: Place, *, keep: bool = False) -> None:
        if not keep:
            self.waiting.pop(place, None)
            self.under_way.pop(place, None)
        name, recipe = self._indexed.pop(place, (None, ""))
        if name is not None and self._names.get(name) == place:
            del self._names[name]
        if recipe:
            self._recipes[recipe].discard(place)


def place_of(clip: Clip) -> Place:
    return clip.folder, clip.path
