"""A reader of protobuf's text format, as much of it as a Triton configuration has; for tests."""

import re

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\]:,])|(?P<word>[A-Za-z0-9_.+-]+))')


def parse(text):
    """Name -> list of its values: strings, numbers, words, and dictionaries for messages."""
    tokens, place = [], 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        assert found, f"not the text format: {text[place : place + 40]!r}"
        tokens.append(found)
        place = found.end()
    message, rest = _message(tokens, 0)
    assert rest == len(tokens), "a bracket too many"
    return message


def _message(tokens, place):
    fields = {}
    while place < len(tokens) and tokens[place]["mark"] != "}":
        name = tokens[place]["word"]
        assert name, "a field without a name"
        place += 1
        if tokens[place]["mark"] == ":":
            place += 1
        value, place = _value(tokens, place)
        fields.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return fields, place


def _value(tokens, place):
    token = tokens[place]
    if token["mark"] == "[":
        values, place = [], place + 1
        while tokens[place]["mark"] != "]":
            value, place = _value(tokens, place)
            values.append(value)
            place += tokens[place]["mark"] == ","
        return values, place + 1
    if token["mark"] == "{":
        message, place = _message(tokens, place + 1)
        assert tokens[place]["mark"] == "}", "a message that does not end"
        return message, place + 1
    if token["text"]:
        return re.sub(r"\\(.)", r"\1", token["text"][1:-1]), place + 1
    assert token["word"], f"no value: {token[0]!r}"
    return (int(token["word"]) if re.fullmatch(r"-?\d+", token["word"]) else token["word"]), place + 1
