"""The role's README from its argument specification, and the check that nothing differs.

python molecule/shared/documents.py           write roles/*/README.md
python molecule/shared/documents.py --check   fail when one is not as it would be written,
                                              or when defaults and argument specification differ
"""

import re
import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
MARKS = {"C": "`", "O": "`"}  # Ansible's markup for code and for an option's name


def markdown(text: str) -> str:
    """A description with Ansible's markup as Markdown, fit for a table."""
    text = re.sub(r"([CO])\((.+?)\)", lambda found: MARKS[found[1]] + found[2] + MARKS[found[1]], text)
    return " ".join(text.replace("|", "\\|").split())


def plain(option: str, default: object) -> object:
    """A default without the lookup before it, as in ``{{ __mlflow_dotenv.mlflow_port | default(5001) }}``.

    None where it follows from other settings, as in ``{{ __mlflow_holds_data }}``.
    """
    if re.fullmatch(r"\{\{ __\w+ \}\}", str(default)):
        return None
    found = re.fullmatch(r"\{\{ __\w+_dotenv\." + option + r"\s\| default\((.*)\) \}\}", str(default))
    return yaml.safe_load(found[1]) if found else default


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
    return sorted(found)


def main(check: bool) -> int:
    problems = []
    for role in sorted(path.parents[1] for path in ROLES.glob("*/meta/argument_specs.yml")):
        specification = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
        written = yaml.safe_load((role / "defaults" / "main.yml").read_text())
        defaults = {option: plain(option, default) for option, default in written.items()}
        problems += differences(role.name, specification, defaults)
        if problems:
            continue
        document, written = role / "README.md", readme(role.name, specification, defaults)
        if not check:
            document.write_text(written)
        elif not document.exists() or document.read_text() != written:
            problems.append(f"{role.name}: README.md is not up to date; run `python molecule/shared/documents.py`.")
    print("\n".join(problems) if problems else "The documents are up to date.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
