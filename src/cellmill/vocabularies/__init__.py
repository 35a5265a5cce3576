"""Vocabularies that stand by themselves: built, extended without moving an id, merged, compared and checked."""

from __future__ import annotations

from cellmill.vocabularies.check import load_tokens
from cellmill.vocabularies.spec import BuildRules, BuildVocabulary, GrowRules, NameRules, parse_vocabulary

__all__ = ["BuildRules", "BuildVocabulary", "GrowRules", "NameRules", "load_tokens", "parse_vocabulary"]
