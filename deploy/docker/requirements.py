"""Prints what pyproject.toml requires, with the extras named as arguments, for `pip install -r`.

The images install it before the sources are copied, so that a change of the sources does not install torch again.
"""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]

for group in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])):
    sys.stdout.writelines(f"{requirement}\n" for requirement in group)
