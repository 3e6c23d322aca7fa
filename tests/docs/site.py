"""Builds the site of the manual, in English and below it in Chinese: ``python -m tests.docs.site``.

The index of each language is the navigation. A broken link or anchor, or a file of another host, fails the build.
A version has a folder of its own; those of other versions that are in the site stay, and all of them are offered.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "aiotaskq" / "docs"
SITE = ROOT / "site"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
VERSIONS = DOCS / "site" / "versions.js"
LANGUAGES = {"en": "English", "zh": "中文"}
FOLDERS = {"en": "", "zh": "zh/"}
"""Where a language is in the site, as in the manual."""
THEMES = {"en": ("Light theme", "Dark theme"), "zh": ("浅色主题", "深色主题")}
TWIN = "https://language.invalid/"
"""Stands for the same page in another language while a site is built."""
OUTSIDE = {
    "en": {"README.md": "readme", "CHANGELOG.md": "changelog"},
    "zh": {"aiotaskq/docs/zh/README.zh-CN.md": "readme", "CHANGELOG.md": "changelog"},
}
"""Pages that the index does not list, and their names in the site."""
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r'(?P<before>\]\(|\b(?:src|srcset|href)=")(?P<target>[^)"\s]+)')
WRAPPED = re.compile(r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])\n(?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])")
"""A line break within Chinese text, which a browser shows as a space."""
PICTURE = re.compile(r'<picture>\s*<source [^>]*srcset="(?P<dark>[^"]+)">\s*(?P<image><img [^>]*>)\s*</picture>')


def pages(language: str) -> dict[Path, str]:
    """Return the file of each page and its name in the site; a page without a translation stays in English."""
    found = {path.stem: path for path in sorted(DOCS.glob("*.md"))}
    found |= {path.stem: path for path in (DOCS / FOLDERS[language]).glob("*.md") if path.stem in found}
    found |= {name: ROOT / path for path, name in OUTSIDE[language].items()}
    return {path: name for name, path in found.items()}


def navigation(language: str) -> list[dict[str, Any]]:
    """Return the headings of the index and the pages below each, in its order; then the pages outside of it."""
    text = (DOCS / FOLDERS[language] / "index.md").read_text(encoding="utf-8")
    title, *sections = re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
    made: list[dict[str, Any]] = [{title.partition("\n")[0]: "index.md"}]
    for section in sections:
        links = re.findall(r"^- \[(.+?)\]\((?:\.\./)?([\w-]+\.md)\)", section, re.MULTILINE)
        made.append({section.partition("\n")[0]: [{text: name} for text, name in links]})
    (last,) = made[-1].values()
    last += [{Path(path).name.partition(".")[0]: f"{name}.md"} for path, name in OUTSIDE[language].items()]
    return made


def way(language: str, folder: str = "") -> str:
    """Return the relative path from the pages of a language to a folder of the site."""
    return os.path.relpath(folder or ".", FOLDERS[language] or ".")


def moved(target: str, source: Path, language: str) -> str:
    """Return a link of a page as it is in the site: to a page or a file of its language, else to one of the other.

    Raises:
        ValueError: The site has no such file.
    """
    link, hash_mark, anchor = target.partition("#")
    if not link or urlsplit(target).scheme:
        return target
    path = Path(os.path.normpath(source.parent / link))
    if path in (own := pages(language)):
        return f"{own[path]}.md{hash_mark}{anchor}"
    for other in LANGUAGES:
        if path in (there := pages(other)):
            return f"{way(language, FOLDERS[other])}/{there[path]}.html{hash_mark}{anchor}"
    if path.is_file() and path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    raise ValueError(f"{source.relative_to(ROOT)} links to {target}, which the site does not have")


def adapted(source: Path, language: str) -> str:
    """Return the text of a page with the links of the site, and pictures that follow the theme of the site."""

    def relinked(text: str) -> str:
        text = PICTURE.sub(both_themes, WRAPPED.sub("", text))
        return LINK.sub(lambda found: found["before"] + moved(found["target"], source, language), text)

    def both_themes(found: re.Match[str]) -> str:
        light = re.sub(r' src="([^"]+)"', r' class="light" src="\1"', found["image"])
        return light + re.sub(r' src="[^"]+"', f' class="dark" src="{found["dark"]}"', found["image"])

    text, made, end = source.read_text(encoding="utf-8"), "", 0
    for code in CODE.finditer(text):
        made += relinked(text[end : code.start()]) + code[0]
        end = code.end()
    return made + relinked(text[end:])


def settings(language: str) -> dict[str, Any]:
    """Return what the site of a language has beside ``site.yml``."""
    light, dark = THEMES[language]
    schemes = [("light", "default", dark, "material/weather-night"), ("dark", "slate", light, "material/weather-sunny")]
    return {
        "INHERIT": os.fspath(DOCS / "site" / "site.yml"),
        "site_name": f"aiotaskq {VERSION}",
        "copyright": f"aiotaskq {VERSION}",
        "docs_dir": "docs",
        "site_dir": "site",
        "nav": navigation(language),
        "extra_javascript": [f"{way(language, '..')}/{VERSIONS.name}"],
        "theme": {
            "language": language,
            "palette": [
                {"media": f"(prefers-color-scheme: {system})", "scheme": scheme, "toggle": {"name": name, "icon": icon}}
                for system, scheme, name, icon in schemes
            ],
        },
        "extra": {
            "alternate": [{"lang": each, "name": name, "link": TWIN + each} for each, name in LANGUAGES.items()],
            "scope": way(language),  # a theme that was chosen holds for all languages
        },
    }


def build(language: str, site: Path, work: Path) -> None:
    """Build the site of a language into a folder. Raises CalledProcessError if a page is broken or has a broken link.

    The link to another language leads to the same page of it.
    """
    docs = work / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("*.md", "zh", "*.yml", VERSIONS.name))
    for source, name in pages(language).items():
        (docs / f"{name}.md").write_text(adapted(source, language), encoding="utf-8")
    (work / "mkdocs.yml").write_text(yaml.safe_dump(settings(language), allow_unicode=True), encoding="utf-8")
    program = Path(sys.executable).with_name("zensical")
    subprocess.run([str(program), "build", "--strict", "--clean", "-f", str(work / "mkdocs.yml")], cwd=work, check=True)
    (work / "site" / "404.html").unlink()  # its links are from the root of a host
    for page in (work / "site").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for other in LANGUAGES:
            text = text.replace(TWIN + other, f"{way(language, FOLDERS[other])}/{page.name}")
        page.write_text(text, encoding="utf-8")
    shutil.copytree(work / "site", site / FOLDERS[language], dirs_exist_ok=True)


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                (self.links if tag == "a" else self.loaded).add(value)


def problems(site: Path) -> Iterator[str]:
    """Yield each link of the site that leads nowhere, and each file that is loaded from another host."""
    found = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in found.items():
        for link in sorted(page.links | page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {link}"
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in found and anchor not in found[target].anchors):
                yield f"{path.relative_to(site)} links to {link}"
    for path in sorted(site.rglob("*.css")):
        if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)} loads a file of another host"


def offer_versions(site: Path) -> None:
    """Write what leads to the versions of a site: the first page to the newest one, and the list for all pages."""
    found = sorted((path.parent.name for path in site.glob("*/index.html")), key=numbers, reverse=True)
    text = VERSIONS.read_text(encoding="utf-8")
    (site / VERSIONS.name).write_text(
        text.replace("VERSIONS = []", f"VERSIONS = {json.dumps(found)}"), encoding="utf-8"
    )
    there = f"{found[0]}/index.html"
    (site / "index.html").write_text(
        f'<meta http-equiv="refresh" content="0; url={there}"><a href="{there}">aiotaskq</a>\n'
    )


def numbers(version: str) -> list[int]:
    """Return the sort key of a version."""
    return [int(number) for number in re.findall(r"\d+", version)]


def main() -> None:
    shutil.rmtree(SITE / VERSION, ignore_errors=True)
    for language in LANGUAGES:
        with tempfile.TemporaryDirectory() as work:
            try:
                build(language, SITE / VERSION, Path(work))
            except (ValueError, subprocess.CalledProcessError) as error:
                sys.exit(f"The site in {LANGUAGES[language]} is not built: {error}")
    offer_versions(SITE)
    if found := list(problems(SITE)):
        sys.exit("\n".join(["The site is broken:", *found]))
    sys.stdout.write(f"{SITE / 'index.html'}\n")


if __name__ == "__main__":
    main()
