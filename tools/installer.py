"""Install the project's packages into an environment: with uv, which downloads and unpacks on all cores, and where uv does not do, with pip.

uv takes half the time of pip. It does not read what pip was told by its files and variables (a mirror, a folder of wheels), so that is handed on;
where something is told that has no counterpart, or uv fails, pip does the work and its words say why.
Part of the set-up, so this too must start on any Python 3.
"""
import ast
import os
import subprocess

OLDEST, NEWEST = (3, 10), (3, 13)  # tested Python versions
TOLD = ("Downloading", "Building", "Installing collected", "Successfully", "ERROR", "error", "Retrying", "WARNING: Retrying",
        "Resolved", "Prepared", "Installed")  # of what pip and uv say
REASONS = [  # words in what pip said, and what a person does about it
    (("no space left", "errno 28", "disk quota"), "The disk is full. The packages need about 7 GB (2 GB with the CPU build of PyTorch)."),
    (("newconnectionerror", "name resolution", "failed to resolve", "connection refused", "unreachable", "timeout", "timed out", "proxyerror",
      "max retries exceeded", "could not fetch url", "certificate_verify_failed"),
     "The package index cannot be reached. Check the network, a proxy (HTTPS_PROXY) or a mirror (PIP_INDEX_URL), then start again."),
    (("no matching distribution", "could not find a version", "requires-python", "requires a different python", "failed building wheel", "gcc"),
     "A package has no wheel for this Python or machine; Python %d.%d to %d.%d on 64-bit Linux, macOS or Windows is supported." % (OLDEST + NEWEST)),
    (("",), "pip said why above. After putting it right, start again; what is installed already is kept."),
]
OPTIONS = {"index-url": "--index-url", "extra-index-url": "--extra-index-url", "find-links": "--find-links", "constraint": "--constraint",
           "trusted-host": "--allow-insecure-host"}  # of pip -> of uv, once for each of the words told
SWITCHES = {"no-index": "--no-index", "no-cache-dir": "--no-cache", "pre": "--prerelease=allow"}
VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "timeout": "UV_HTTP_TIMEOUT", "default-timeout": "UV_HTTP_TIMEOUT"}
NO_MATTER = ("disable-pip-version-check", "no-input", "progress-bar", "root-user-action", "quiet", "verbose", "no-color", "no-compile", "compile", "retries",
             "cache-dir", "require-virtualenv", "break-system-packages", "user", "no-warn-script-location", "prefer-binary", "use-feature", "format", "log")


class SetupProblem(Exception):
    """Something a person has to do; the message says what."""


def say(text):
    print("[stal_nb] " + text.replace("\n", "\n[stal_nb] "), flush=True)


def explain_pip_failure(output):
    """What to do about a failed installation, from what pip said."""
    return next(advice for words, advice in REASONS if any(word in output.lower() for word in words))


def translate(told):
    """(options, variables) of uv for the lines of `pip config list`; None where there is something that uv does not know."""
    settings, options, variables = {}, [], {}
    for line in told.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.strip().rpartition(".")
        if section in ("global", "install", ":env:"):
            settings.setdefault(name.replace("_", "-"), {})[section] = str(ast.literal_eval(value.strip()))
    for name, by_section in sorted(settings.items()):
        value = by_section.get(":env:") or by_section.get("install") or by_section.get("global") or ""  # as pip weighs them
        if name in OPTIONS:
            options += [word for one in value.split() for word in (OPTIONS[name], one)]
        elif name in SWITCHES:
            options += [SWITCHES[name]] if value.lower() in ("1", "true", "yes", "on") else []
        elif name in VARIABLES:
            variables[VARIABLES[name]] = value
        elif name not in NO_MATTER:
            return None
    return options, variables


def run(command, root, environment=None):
    """Run a program, showing the lines that matter; returns its exit status and all it said."""
    lines = []
    with subprocess.Popen(command, cwd=str(root), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for raw in process.stdout:
            lines.append(raw.decode(errors="replace").strip())
            if lines[-1].startswith(TOLD):
                print("  " + lines[-1][:160], flush=True)
    return process.returncode, lines


def uv_install(python, root, wanted):
    """Whether uv, fetched by pip, has installed what is wanted."""
    try:
        told = subprocess.run([str(python), "-m", "pip", "config", "list"], cwd=str(root), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        found = translate(told.stdout.decode(errors="replace"))
    except (OSError, ValueError, SyntaxError, subprocess.SubprocessError):
        return False
    fetch = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--no-input", "uv"]
    if found is None or subprocess.call(fetch + wanted[wanted.index("-c"):] if "-c" in wanted else fetch, cwd=str(root), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL):
        return False
    options, variables = found
    command = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--index-strategy", "unsafe-best-match"]  # the best of all indexes, as pip
    status, lines = run(command + wanted + options, root, dict(variables, **os.environ))
    if status:
        print("\n".join("  " + line for line in lines[-5:]), flush=True)
        say("uv could not install the packages (exit status %d); pip does it now." % status)
    return status == 0


def install(python, root, latest):
    """Install the project for development, with the tested versions or the newest ones. Raises SetupProblem."""
    wanted = ["-e", ".[notebooks,dev]"] + (["--upgrade"] if latest else ["-c", "constraints.txt"])
    say("$ pip install %s   (the first time: some minutes and several GB, most of it PyTorch)" % " ".join(wanted))
    if uv_install(python, root, wanted):
        return
    quiet = ["--no-compile", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]  # Python compiles what is used: 30 s less
    eager = ["--upgrade-strategy", "eager"] if latest else []
    status, lines = run([str(python), "-m", "pip", "install"] + wanted + eager + quiet, root)
    if status:
        print("\n".join("  " + line for line in lines[-25:]), flush=True)
        raise SetupProblem("The packages could not be installed. " + explain_pip_failure("\n".join(lines[-200:])))
