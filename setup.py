"""Package metadata. Every value lives in settings.ini, which nbdev reads too."""
import configparser
import pathlib
import shlex

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
parser = configparser.ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def requirements(name):
    return shlex.split(settings.get(name, ""))


readme = here / "README.md"
extras = {name: requirements(f"{name}_requirements") for name in ("formats", "onnx", "video", "notebooks", "dev")}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=settings["git_url"],
    project_urls={
        "Documentation": settings["doc_host"] + settings["doc_baseurl"],
        "Changelog": settings["git_url"] + "/blob/main/CHANGELOG.md",
    },
    keywords=settings["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    ],
    packages=find_packages(include=["stal_nb", "stal_nb.*"]),
    package_data={"stal_nb.app": ["static/*", "templates/*"]},
    python_requires=">=" + settings["min_python"],
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": requirements("console_scripts")},
    zip_safe=False,
)
