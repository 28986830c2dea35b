"""Jupyter's messages as the events of the stream."""

_RESULT_KEYS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def event_of(message: dict) -> dict | None:
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return stream(content["name"], content["text"], message["header"]["date"])
    if kind in ("display_data", "execute_result"):
        return result(content["data"], kind == "execute_result")
    if kind == "error":
        return _error(content)
    if kind == "execute_input":
        return {"type": "number_of_executions", "execution_count": content["execution_count"]}
    return None


def stream(name: str, text: str, date) -> dict:
    return {"type": "stderr" if name == "stderr" else "stdout", "text": text, "timestamp": date.isoformat()}


def result(data: dict, is_main_result: bool) -> dict:
    event = {"type": "result", "is_main_result": is_main_result}
    extra = {}
    for mime, value in data.items():
        if mime in _RESULT_KEYS:
            event[_RESULT_KEYS[mime]] = value
        else:
            extra[mime] = value
    if isinstance(event.get("text"), str):
        event["text"] = _without_quotes(event["text"])
    return event | ({"extra": extra} if extra else {})


def _without_quotes(text: str) -> str:
    """The text of a string rather than its representation."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def reply_error(reply: dict) -> dict | None:
    """The error a kernel tells only in its reply."""
    if reply.get("status") == "error":
        return _error(reply)
    if reply.get("status") in ("abort", "aborted"):
        return {"type": "error", "name": "ExecutionAborted", "value": "Execution was aborted", "traceback": ""}
    return None


def _error(content: dict) -> dict:
    return {
        "type": "error",
        "name": content.get("ename", ""),
        "value": content.get("evalue", ""),
        "traceback": "\n".join(content.get("traceback", [])),
    }
