"""``cellmill vocab``: vocabularies by hand."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, get_args

from cellmill.errors import CellmillError

DIFFERENT, TROUBLE = 1, 2
"""Exit statuses of ``diff``, as of diff(1); every other command ends with 1 where something is wrong."""


def add_parser(commands: Any) -> None:
    """The sub-commands; what they take is what the rules of the specs say."""
    from cellmill.vocabularies.spec import BuildRules, GrowRules

    vocab = commands.add_parser("vocab", help="build, extend, merge, convert, compare and check vocabularies")
    inner = vocab.add_subparsers(dest="vocab", required=True, metavar="COMMAND")
    sources = "results/<dataset>, a genes.parquet, an h5ad file, a table, or a list of genes"

    build = inner.add_parser("build", help="a vocabulary over the genes of datasets, files and lists")
    build.add_argument("sources", nargs="+", metavar="SOURCE", help=sources)
    extend = inner.add_parser("extend", help="new genes at the end of a vocabulary: no id moves")
    extend.add_argument("vocabulary", metavar="VOCABULARY")
    extend.add_argument("sources", nargs="+", metavar="SOURCE", help=sources)
    merge = inner.add_parser("merge", help="several vocabularies in one: the first keeps its ids")
    merge.add_argument("vocabularies", nargs="+", metavar="VOCABULARY")
    convert = inner.add_parser("convert", help="a dictionary in another format, such as Geneformer's pickles in JSON")
    convert.add_argument("dictionary", metavar="FILE")
    for parser in (build, extend, merge, convert):
        parser.add_argument("-o", "--out", required=True, metavar="FILE", help=".json, .parquet, .txt or .pkl")
        parser.add_argument("--force", action="store_true", help="replace a file that is there")
    for parser in (build, extend):
        parser.add_argument("--column", help="the column of the genes, of sources that are tables")
    for parser, rules in ((build, BuildRules), (extend, BuildRules), (merge, GrowRules)):
        parser.set_defaults(rules=rules)
        for name, field in rules.model_fields.items():
            _add_option(parser, name, field)

    diff = inner.add_parser("diff", help="how two vocabularies differ; exit 0: not at all, 1: they do, 2: trouble")
    diff.add_argument("old")
    diff.add_argument("new")
    diff.add_argument("--json", action="store_true", help="every change, for programs")
    check = inner.add_parser("check", help="ids from 0 without holes, no duplicates, versions or names in two cases")
    check.add_argument("vocabularies", nargs="+", metavar="VOCABULARY")
    check.add_argument("--versions", choices=["error", "keep"], default="error", help="default: %(default)s")
    check.add_argument("--case", choices=["error", "keep"], default="error", help="default: %(default)s")
    check.add_argument("--special", type=_tokens, default=[], help="tokens that must be there: '<pad> <cls>'")


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-command that was parsed; its exit status."""
    if arguments.vocab == "check":
        return _check(arguments)
    if arguments.vocab == "diff":
        return _diff(arguments)
    from cellmill.vocabularies import make

    kwargs = {"out": arguments.out, "force": arguments.force, "made_by": f"cellmill vocab {arguments.vocab}"}
    if arguments.vocab == "convert":
        facts = make.convert(arguments.dictionary, **kwargs)
    elif arguments.vocab == "merge":
        facts = make.merge_vocabularies(arguments.vocabularies, rules=_rules(arguments), **kwargs)
    else:
        kwargs |= {"extends": getattr(arguments, "vocabulary", None), "column": arguments.column}
        facts = make.make_vocabulary(arguments.sources, rules=_rules(arguments), **kwargs)
    for read in facts["inputs"]:
        numbers = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in read.items() if type(n) is int)
        print(f"{read['path']}: {numbers or 'read'}")
    print(f"{arguments.out}: {_shown(facts['counts'])}")
    return 0


def _add_option(parser: argparse.ArgumentParser, name: str, field: Any) -> None:
    """An option by the annotation and the sentence of a spec's field."""
    options: dict[str, Any] = {"default": field.default, "help": f"{field.description} (default: %(default)s)"}
    if field.annotation is bool:
        options = {"action": "store_true", "help": str(field.description)}
    elif choices := [a for a in get_args(field.annotation) if isinstance(a, str)]:
        options["choices"] = choices
    else:
        options["type"] = _tokens if name == "special" else int
    parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _rules(arguments: argparse.Namespace) -> Any:
    from pydantic import ValidationError

    try:
        return arguments.rules(**{name: getattr(arguments, name) for name in arguments.rules.model_fields})
    except ValidationError as error:
        said = error.errors()[0]
        option = f"--{said['loc'][0]}".replace("_", "-")
        raise CellmillError(option, f"{said['msg']}, found: {said['input']!r}.", "See --help.") from error


def _tokens(text: str) -> list[str]:
    return text.split()


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n or name == "tokens")


def _check(arguments: argparse.Namespace) -> int:
    """Every vocabulary, also after one with problems."""
    from cellmill.vocabularies.check import kinds, load_tokens, name_problems

    status = 0
    for path in arguments.vocabularies:
        try:
            tokens = load_tokens(path)
            found = name_problems(tokens, versions=arguments.versions, case=arguments.case)
            missing = [token for token in arguments.special if token not in tokens]
            found += [f"There is no {', '.join(missing)}."] if missing else []
            if found:
                raise CellmillError(path, " ".join(found), "If versions or cases are meant, say keep.")
        except CellmillError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            print(f"{path}: {_shown(kinds(tokens))}; no problems.")
    return status


def _diff(arguments: argparse.Namespace) -> int:
    from cellmill.vocabularies.check import load_tokens
    from cellmill.vocabularies.diff import diff, table

    try:
        changes = diff(load_tokens(arguments.old), load_tokens(arguments.new))
    except CellmillError as error:
        print(error, file=sys.stderr)
        return TROUBLE
    print(json.dumps(changes, indent=2) if arguments.json else table(changes))
    return DIFFERENT if any(changes.values()) else 0
