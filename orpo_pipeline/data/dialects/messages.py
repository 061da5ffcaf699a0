"""Values of a row that hold text or a conversation."""

import json
import re
from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal, Row, shown
from orpo_pipeline.data.identity import nfc
from schemas.pairs import Conversation, DefectCode, Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
TOOL_ROLES = frozenset(
    ("tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython")
)
UNSUPPORTED_COLUMNS = frozenset(
    ("tools", "functions", "image", "images", "video", "videos", "audio", "audios")
)
NOTHING = ("", "[]", "{}", "null")  # how a CSV cell or a column of JSON text says "none"

# CSV exports hold a list of messages as JSON; those of pandas as Python would print it.
_JSON_MESSAGES = re.compile(r'\[\s*\{\s*"(?:role|content|from|value)"\s*:')
_PYTHON_MESSAGES = re.compile(r"\[\s*\{\s*'(?:role|content|from|value)'\s*:")


def is_messages(value: Any) -> bool:
    """Whether the value is a list, or the text of a list of messages."""
    if isinstance(value, str):
        return value[:1] == "[" and bool(
            _JSON_MESSAGES.match(value) or _PYTHON_MESSAGES.match(value)
        )
    return isinstance(value, list)


def is_text(value: Any) -> bool:
    """Whether the value is text other than that of a list of messages."""
    return isinstance(value, str) and not is_messages(value)


def is_empty(value: Any) -> bool:
    """None, or nothing but brackets. Never compares: values of odd types may not allow it."""
    if isinstance(value, str):
        return value.strip() in NOTHING
    return value is None or (isinstance(value, list | dict | tuple) and not value)


def refuse_other_media(row: Row) -> None:
    """Refuses a row with columns that hold tools, images, video or audio."""
    if UNSUPPORTED_COLUMNS.isdisjoint(row):
        return
    for name in sorted(UNSUPPORTED_COLUMNS.intersection(row)):
        if not is_empty(row[name]):
            raise Refusal(
                DefectCode.UNSUPPORTED_CONTENT,
                f"the row has {name}, which is not supported: only text is",
            )


def text_of(row: Row, field: str) -> str:
    """A field that must be text, in NFC."""
    value = row.get(field)
    if value is None:
        raise Refusal(DefectCode.MISSING_FIELD, f"no {field}")
    if not isinstance(value, str):
        raise Refusal(DefectCode.WRONG_TYPE, f"{field} is {type(value).__name__}, not text")
    return nfc(value)


def optional_text_of(row: Row, field: str) -> str:
    """The same for a field that may be missing, null or blank: then ""."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refusal(DefectCode.WRONG_TYPE, f"{field} is {type(value).__name__}, not text")
    return nfc(value) if value.strip() else ""


def conversation(value: Any, role_of_text: str, field: str) -> Conversation:
    """Text as one message of the given role, a list of messages, or the JSON text of one."""
    if isinstance(value, str):
        if value[:1] == "[":
            listed = _listed(value, field)
            if listed is not None:
                return tuple(message(item, field) for item in listed)
        return (Message(role_of_text, nfc(value)),)
    if isinstance(value, list):
        return tuple([message(item, field) for item in value])
    if value is None:
        raise Refusal(DefectCode.MISSING_FIELD, f"no {field}")
    raise Refusal(
        DefectCode.WRONG_TYPE,
        f"{field} is {type(value).__name__}, not text or a list of messages",
    )


def _listed(text: str, field: str) -> list[Any] | None:
    if _PYTHON_MESSAGES.match(text):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"{field} holds a list of messages as Python prints it; it must be written as JSON",
        )
    if not _JSON_MESSAGES.match(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if all(_looks_like_message(item) for item in value) else None


def _looks_like_message(item: Any) -> bool:
    return isinstance(item, dict) and (
        ("role" in item and "content" in item) or ("from" in item and "value" in item)
    )


def message(item: Any, field: str) -> Message:
    """One message: `role` and `content`, or `from` and `value`."""
    if not isinstance(item, dict):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"a message of {field} is {type(item).__name__}, not role and content",
        )
    if len(item) == 2:  # by far the most: nothing else can hide in it
        role, content = item.get("role"), item.get("content")
        if isinstance(role, str) and isinstance(content, str) and role in ROLES:
            return Message(ROLES[role], nfc(content))
    return _unusual_message(item, field)


def _unusual_message(item: dict[Any, Any], field: str) -> Message:
    names = ("role", "content")
    if "role" not in item and "from" in item:
        names = ("from", "value")
    if names[0] not in item and names[1] not in item:
        raise Refusal(DefectCode.MISSING_FIELD, f"a message of {field} has no role and no content")
    for key, value in item.items():
        if key not in names and not is_empty(value):
            raise Refusal(
                DefectCode.UNSUPPORTED_CONTENT,
                f"a message of {field} has {shown(key)}, which is not supported: only text is",
            )
    role, content = (item.get(name) for name in names)
    for name, value in zip(names, (role, content), strict=True):
        if value is None:
            raise Refusal(DefectCode.MISSING_FIELD, f"a message of {field} has no {name}")
    return Message(_role(role, field), _content(content, field))


def _role(role: Any, field: str) -> str:
    if not isinstance(role, str):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"the role of a message of {field} is {type(role).__name__}, not text",
        )
    name = role.strip().casefold()
    if name in TOOL_ROLES:
        raise Refusal(
            DefectCode.UNSUPPORTED_CONTENT,
            f"{field} has a turn of the role {name}, which is not supported",
        )
    if name not in ROLES:
        raise Refusal(
            DefectCode.WRONG_ROLES,
            f"{field} has a turn of the role {shown(role)!r}, which is neither system, user "
            "nor assistant",
        )
    return ROLES[name]


def _content(content: Any, field: str) -> str:
    if isinstance(content, str):
        return nfc(content)
    if isinstance(content, list):
        return nfc("".join([_part(part, field) for part in content]))
    raise Refusal(
        DefectCode.WRONG_TYPE,
        f"the content of a message of {field} is {type(content).__name__}, not text",
    )


def _part(part: Any, field: str) -> str:
    if not isinstance(part, dict):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"a part of a message of {field} is {type(part).__name__}, not type and text",
        )
    kind, text = part.get("type"), part.get("text")
    if not isinstance(kind, str):
        raise Refusal(DefectCode.WRONG_TYPE, f"a part of a message of {field} has no type")
    beyond = [key for key in part if key not in ("type", "text") and not is_empty(part[key])]
    if kind != "text" or beyond:
        found = kind if kind != "text" else beyond[0]
        raise Refusal(
            DefectCode.UNSUPPORTED_CONTENT,
            f"a message of {field} has a part with {shown(found)}, which is not supported: "
            "only text is",
        )
    if text is None:
        raise Refusal(DefectCode.MISSING_FIELD, f"a part of a message of {field} has no text")
    if not isinstance(text, str):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"the text of a part of {field} is {type(text).__name__}, not text",
        )
    return text
