"""What pip needs to know; the settings of the tools are in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent

VERSION: dict[str, str] = {}
exec((HERE / "vectasks" / "_version.py").read_text(encoding="utf-8"), VERSION)

EXTRAS = {
    "torch": ["torch>=2.1"],
    # Gymnasium draws CartPole and its kin with pygame, which no recording can do without.
    "video": ["av", "gymnasium[classic-control]"],
    "minigrid": ["minigrid"],
    "atari": ["ale-py"],
    "sb3": ["stable-baselines3>=2.3"],
    "torchrl": ["torchrl>=0.9"],
    "experiment": ["filelock>=3.12", "pydantic>=2.7"],
    "slurm": ["filelock>=3.12", "pydantic>=2.7", "submitit>=1.5"],
    "evaluation": [
        "filelock>=3.12",
        "jinja2>=3.1",
        "matplotlib>=3.7",
        "pydantic>=2.7",
        "scipy>=1.15",
    ],
    "compute": ["zarr>=2.16"],
    "ray": ["ray>=2.9"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["test"] = [
    *EXTRAS["all"],
    "hypothesis",
    "psutil",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
]
EXTRAS["dev"] = [
    "coverage>=7.10",
    "mkdocs-material",
    "mkdocstrings[python]",
    "mypy",
    "pyright[nodejs]",
    "ruff",
]


def compiled_core() -> list[Any]:
    """The usual step, compiled; where it cannot be, all of it runs in Python, more slowly."""
    try:
        import numpy
        from Cython.Build import cythonize

        core = Extension(
            "vectasks.transport._core",
            ["vectasks/transport/_core.pyx"],
            include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        )
        extensions: list[Any] = cythonize([core], quiet=True)
        for extension in extensions:
            extension.optional = True  # no compiler is no error
    except Exception as error:  # no Cython, or one that is too old
        sys.stderr.write(f"vectasks: steps will run in Python, uncompiled: {error}\n")
        return []
    return extensions


setup(
    name="vectasks",
    version=VERSION["__version__"],
    description="Samples reinforcement-learning tasks in parallel, and shows you what they do",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="The vectasks authors",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["vectasks", "vectasks.*"]),
    package_data={
        "vectasks": ["py.typed", "evaluation/report.html.jinja", "transport/_core.py[ix]"]
    },
    ext_modules=compiled_core(),
    python_requires=">=3.10",
    install_requires=[
        "click>=8.1",
        "cloudpickle>=2.1",
        "gymnasium>=1.1",
        "numpy",
        "opencv-python",
        "rich",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vectasks = vectasks.cli.main:main"]},
)
