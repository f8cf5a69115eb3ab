"""The conversation as the protocol counts it: items in order, the newest `MOST` of them. The model has its own
memory."""

from __future__ import annotations

from typing import Any, Final

MOST: Final = 256

Item = dict[str, Any]


class Items:
    """Of one call."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._number = 0
        self._items: dict[str, Item] = {}
        self.newest: str | None = None

    def new_id(self, kind: str = "item") -> str:
        """Unlike all others of the call."""
        self._number += 1
        return f"{kind}_{self._prefix}_{self._number}"

    def add(self, item: Item) -> str | None:
        """At the end; gives the id of the one before it. The oldest is forgotten beyond the bound."""
        before = self.newest
        self.newest = str(item["id"])
        self._items[self.newest] = item
        if len(self._items) > MOST:
            del self._items[next(iter(self._items))]
        return before

    def get(self, name: str) -> Item | None:
        """None for one that is not here, or not any more."""
        return self._items.get(name)

    def delete(self, name: str) -> bool:
        """Whether it was here."""
        if self._items.pop(name, None) is None:
            return False
        if name == self.newest:
            self.newest = next(reversed(self._items), None)
        return True


def message(name: str, role: str, content: list[dict[str, Any]], status: str = "completed") -> Item:
    """Somebody's words."""
    return {
        "id": name, "object": "realtime.item", "type": "message", "status": status, "role": role,
        "content": content,
    }  # fmt: skip


def function_call(name: str, function: str, call_id: str, arguments: str, status: str = "completed") -> Item:
    """What the model wants done."""
    return {
        "id": name, "object": "realtime.item", "type": "function_call", "status": status, "name": function,
        "call_id": call_id, "arguments": arguments,
    }  # fmt: skip
