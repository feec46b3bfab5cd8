"""The night: what runs when. The only room that knows the other three."""

from __future__ import annotations
