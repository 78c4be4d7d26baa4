"""What one OpenAI-compatible server takes that others do not (parameter `servers`)."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

_OWN = {"model", "messages", "prompt", "stream", "n", "temperature", "max_tokens"}
_OWN |= {"max_completion_tokens", "max_new_tokens"}
_SECRET = re.compile(  # a field's name, or the start of a value, in JSON
    r'(?i)"(x[-_])?((api|access|auth|secret)[-_]?)?(key|token|secret|password|authorization)": '
    r'|"(sk-|bearer )'
)


class Server(BaseModel):
    """Settings of one server; all but its context are part of the key of what it writes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Field(ge=0)] | None = 0  # 0: the study's; None: not sent
    system: str = ""  # a system message before the prompt
    extra: dict[str, Any] = {}  # more fields of the request, as {reasoning_effort: low}
    context: int = Field(0, ge=0)  # tokens of prompt and completion together; 0: not known

    @field_validator("extra")
    @classmethod
    def _allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            text = json.dumps(value, allow_nan=False)
        except TypeError as error:
            raise ValueError(f"it is sent as JSON: {error}") from None
        if _SECRET.search(text):
            raise ValueError(
                "every manifest would hold this key or password; set the environment variable "
                "OPENAI_API_KEY instead"
            )
        if own := _OWN & set(value):
            raise ValueError(f"{min(own)!r} is set by the study, or a setting beside extra")
        return value
