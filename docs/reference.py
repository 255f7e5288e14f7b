"""Write the API reference as web pages: ``python docs/reference.py docs/api``, or ``make docs``.

The page ``sleepstage`` shows every public name with its docstring; the chapters' pages show what is behind
them. pdoc looks into a module's dictionary, where the public names are only once they have been used, so all
of them are loaded first. Whatever pdoc warns of is an error here.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.doc

import sleepstage


def load_public_names() -> None:
    """Put every public name into the package's dictionary, and a constant's docstring beside it."""
    for name in sleepstage.__all__:
        setattr(sleepstage, name, getattr(sleepstage, name))
    for variable in pdoc.doc.Module.from_name("sleepstage").variables:
        variable.docstring = docstring_of_constant(variable.name)


def docstring_of_constant(name: str) -> str:
    """Give the text below a constant in the module that defines it; Python keeps none of it."""
    home = pdoc.doc.Module.from_name(f"sleepstage.{sleepstage._HOME[name]}")
    if text := home.get(name).docstring:
        return text
    raise ValueError(f"{home.fullname}.{name} is public and has no docstring; write one below it")


def write_reference(folder: Path) -> None:
    """Write the pages of the package and of all chapters into a folder, beginning with ``index.html``."""
    os.environ["PDOC_SUBMODULES"] = "1"  # or a public name that is a module, ``workshop``, is left out
    load_public_names()
    pdoc.render.configure(docformat="numpy")
    chapters = [module.name for module in pkgutil.iter_modules(sleepstage.__path__, "sleepstage.")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("sleepstage", *chapters, output_directory=folder)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
    print(f"The reference is in {Path(sys.argv[1]) / 'index.html'}")
