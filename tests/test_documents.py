"""What the documents tell people to type is what the command line takes: every `hat` line in them is parsed by its command."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from hat.cli import COMMANDS, load_command

WrongUsage = typer.BadParameter.__bases__[0]  # typer exports this one of its errors, and they share their base

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def simple_commands(line):
    """The words of each command in a line of shell, as `&&`, pipes and redirections part them; comments are left out."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    words = []
    for token in reader:
        if set(token) <= set("&|;<>()"):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def hat_lines(path):
    """Arguments of every `hat` command in a document's shell blocks."""
    for body in (body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            for words in simple_commands(line):
                position = words.index("hat") if "hat" in words else -1
                if position == 0 or (position > 0 and words[position - 1] == "-m"):
                    yield words[position + 1 :]


def parse(arguments):
    """Let the command read its arguments without doing its work."""
    name, *rest = arguments
    assert name in COMMANDS, f"hat {name} is no command"
    command = load_command(name)
    if isinstance(command, TyperGroup):  # a group hands the rest to one of its own
        name, command, rest = command.resolve_command(command.make_context(name, [], resilient_parsing=True), list(rest))
    command.make_context(name, list(rest))


EVERY_LINE = [(path, line) for path in DOCUMENTS for line in hat_lines(path) if line and not line[0].startswith("-")]


@pytest.mark.parametrize(("path", "line"), EVERY_LINE, ids=[f"{path.name}: {shlex.join(line)}" for path, line in EVERY_LINE])
def test_a_command_in_a_document_is_one_that_the_program_takes(path, line):
    try:
        parse(line)
    except typer.Exit as done:  # --print-config and --help end early, and that is right
        assert done.exit_code == 0
    except WrongUsage as error:
        pytest.fail(f"{path.name}: hat {shlex.join(line)}: {error.format_message()}")


def test_commands_are_found_where_documents_have_them_and_wrong_ones_seen(tmp_path):
    with pytest.raises(WrongUsage):
        parse(["export", "runs/market", "--too", "onnx"])
    with pytest.raises(AssertionError):
        parse(["exprot", "runs/market"])
    document = tmp_path / "page.md"
    document.write_text(
        "```bash\npip install hat && hat info runs/a  # a comment\npython -m hat eval x --data y\n"
        "hat bench a b --json > speed.json\ngrep hat file\n```\n```python\nhat.x\n```\n"
    )
    assert list(hat_lines(document)) == [["info", "runs/a"], ["eval", "x", "--data", "y"], ["bench", "a", "b", "--json"]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_a_document_is_python_and_its_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for kind, body in BLOCK.findall(text):
        if kind == "python":
            ast.parse(body)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
