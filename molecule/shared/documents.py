"""The roles' READMEs from their argument specifications, the page of promises, and the check that nothing differs.

python molecule/shared/documents.py           write roles/*/README.md and docs/promises.md
python molecule/shared/documents.py --check   fail when one is not as it would be written,
                                              or when defaults and argument specification differ
"""

import re
import sys
from pathlib import Path

import promises
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
sys.path.append(str(ROOT / "plugins" / "module_utils"))

from defaults import of_role  # noqa: E402  the collection's own

MARKS = {"C": "`", "O": "`"}  # Ansible's markup for code and for an option's name


def markdown(text: str) -> str:
    """A description with Ansible's markup as Markdown, fit for a table."""
    text = re.sub(r"([CO])\((.+?)\)", lambda found: MARKS[found[1]] + found[2] + MARKS[found[1]], text)
    return " ".join(text.replace("|", "\\|").split())


def value(default: object) -> str:
    """A default as one would write it in YAML."""
    if default is None:
        return "by other settings"
    shown = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{shown}`" if default != "" else "empty"


def readme(name: str, specification: dict, defaults: dict) -> str:
    main = specification["argument_specs"]["main"]
    lines = [
        "<!-- Written by `python molecule/shared/documents.py` from meta/argument_specs.yml. -->",
        f"# Role `{name}`",
        "",
        f"{main['short_description']}.",
        "",
        *[f"{markdown(sentence)}\n" for sentence in main["description"]],
        "## Settings",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for option, described in main["options"].items():
        choices = (
            ", one of " + ", ".join(f"`{choice}`" for choice in described["choices"]) if "choices" in described else ""
        )
        kind = described["type"] + (f" of {described['elements']}" if "elements" in described else "")
        meaning = markdown(described["description"])
        lines.append(f"| `{option}` | {kind}{choices} | {value(defaults[option])} | {meaning} |")
    entries = {entry: known for entry, known in specification["argument_specs"].items() if entry != "main"}
    if entries:
        lines += ["", "## Entry points", "", "For `include_role` with `tasks_from`; `main` is all of it.", ""]
        lines += ["| entry point | takes | what it does |", "|---|---|---|"]
    for entry, known in entries.items():
        options = known.get("options", {})
        takes = "all settings" if options == main["options"] else ", ".join(f"`{option}`" for option in options)
        words = [known["short_description"] + ".", known.get("description", "")]
        lines.append(f"| `{entry}` | {takes or 'nothing'} | {markdown(' '.join(words))} |")
    return "\n".join(lines) + "\n"


def differences(name: str, specification: dict, defaults: dict) -> list[str]:
    """Sentences about settings that defaults/main.yml and meta/argument_specs.yml do not share."""
    options = specification["argument_specs"]["main"]["options"]
    found = [f"{name}: {option} has a default, but no argument specification." for option in defaults.keys() - options]
    found += [f"{name}: {option} is specified, but has no default." for option in options.keys() - defaults]
    for option in options.keys() & defaults.keys():
        if options[option].get("default") != defaults[option]:
            found.append(f"{name}: {option} has another default in its argument specification.")
        if not options[option].get("description"):
            found.append(f"{name}: {option} has no description.")
    for entry, known in specification["argument_specs"].items():
        for option, described in known.get("options", {}).items():
            if options.get(option, described) != described or (option not in options and not described.get("required")):
                found.append(f"{name}: {option} of the entry point {entry} is none of main's and not required.")
    return sorted(found)


def main(check: bool) -> int:
    problems, written = [], {ROOT / "docs" / "promises.md": promises.page()}
    for role in sorted(path.parents[1] for path in ROLES.glob("*/meta/argument_specs.yml")):
        specification = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
        defaults = of_role(role.name)
        problems += differences(role.name, specification, defaults)
        if problems:
            continue
        written[role / "README.md"] = readme(role.name, specification, defaults)
    for document, text in written.items():
        if not check:
            document.write_text(text)
        elif not document.exists() or document.read_text() != text:
            shown = document.relative_to(ROOT)
            problems.append(f"{shown} is not up to date; run `python molecule/shared/documents.py`.")
    print("\n".join(problems) if problems else "The documents are up to date.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
