"""How each language is told its environment variables, and made to forget a random state it shares with other clones.

The snippets run as cells of their own, silently, and leave no name behind where the language allows it.
"""

import json
import os
import re
import shlex

HOME = os.environ.get("CUBE_HOME", "/home/user")
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def normalize(language: str) -> str:
    name = language.strip().lower()
    return {"": "python", "js": "javascript", "ts": "typescript", "sh": "bash", "py": "python"}.get(name, name)


class Language:
    """A language without special knowledge: its kernel runs, its environment stays as the kernel was started."""

    warm_up = ""

    def set(self, variables: dict[str, str], removed: list[str]) -> str:
        return ""

    def push(self, variables: dict[str, str]) -> str:
        """Sets variables for one execution."""
        return ""

    def pop(self, variables: dict[str, str]) -> str:
        """Gives them back the values they had."""
        return ""

    def reseed(self) -> str:
        return ""


class Python(Language):
    # Figures, frames and arrays are what first cells are about: their modules are imported once, for every clone.
    warm_up = "__import__('cube_session').warm_up()"

    def set(self, variables, removed):
        return f"__import__('cube_session').set_environment({variables!r}, {removed!r})"

    def push(self, variables):
        return f"__import__('cube_session').push_environment({variables!r})"

    def pop(self, variables):
        return "__import__('cube_session').pop_environment()"

    def reseed(self):
        return "__import__('cube_session').reseed()"


class Bash(Language):
    warm_up = "true"

    def set(self, variables, removed):
        lines = [f"export {name}={shlex.quote(value)}" for name, value in _shell(variables)]
        return "\n".join(lines + [f"unset {name}" for name in removed if _SHELL_NAME.fullmatch(name)])

    def push(self, variables):
        return "\n".join(
            f"__cube_had_{name}=${{{name}+x}} __cube_was_{name}=${{{name}-}}; export {name}={shlex.quote(value)}"
            for name, value in _shell(variables)
        )

    def pop(self, variables):
        return "\n".join(
            f'if [[ -n $__cube_had_{name} ]]; then export {name}="$__cube_was_{name}"; else unset {name}; fi; '
            f"unset __cube_had_{name} __cube_was_{name}"
            for name, _ in _shell(variables)
        )

    def reseed(self):
        return f"RANDOM={int.from_bytes(os.urandom(2), 'big')}"


def _shell(variables: dict[str, str]):
    return [(name, value) for name, value in variables.items() if _SHELL_NAME.fullmatch(name)]


class JavaScript(Language):
    def set(self, variables, removed):
        return f"cube.setEnvironment({json.dumps(variables)}, {json.dumps(removed)})"

    def push(self, variables):
        return f"cube.pushEnvironment({json.dumps(variables)})"

    def pop(self, variables):
        return "cube.popEnvironment()"

    def reseed(self):
        return f"cube.reseed('{os.urandom(16).hex()}')"


class R(Language):
    def set(self, variables, removed):
        # R's strings have JSON's escapes, but for characters beyond 16 bits.
        lines = [f"Sys.setenv(`{name}` = {json.dumps(value, ensure_ascii=False)})" for name, value in _shell(variables)]
        return "\n".join(lines + [f"Sys.unsetenv({json.dumps(name)})" for name in removed])

    def push(self, variables):
        names = ", ".join(json.dumps(name) for name, _ in _shell(variables))
        return f"options(cube.was = Sys.getenv(c({names}), unset = NA, names = TRUE))\n{self.set(variables, [])}"

    def pop(self, variables):
        return (
            "local({ was <- getOption('cube.was'); options(cube.was = NULL); Sys.unsetenv(names(was)[is.na(was)]); "
            "had <- was[!is.na(was)]; if (length(had)) do.call(Sys.setenv, as.list(had)) })"
        )

    def reseed(self):
        return f"set.seed({int.from_bytes(os.urandom(3), 'big')})"


class Java(Language):
    """Java has no way to change its own environment: the variables become system properties."""

    def set(self, variables, removed):
        lines = [f"System.setProperty({json.dumps(n)}, {json.dumps(v)});" for n, v in variables.items()]
        return "\n".join(lines + [f"System.clearProperty({json.dumps(name)});" for name in removed])

    def push(self, variables):
        keep = [
            f"if (System.getProperty({json.dumps(n)}) != null) "
            f"System.setProperty({json.dumps('cube.was.' + n)}, System.getProperty({json.dumps(n)}));"
            for n in variables
        ]
        return "\n".join(keep) + "\n" + self.set(variables, [])

    def pop(self, variables):
        return "\n".join(
            f"{{ String was = System.clearProperty({json.dumps('cube.was.' + n)}); "
            f"if (was == null) System.clearProperty({json.dumps(n)}); else System.setProperty({json.dumps(n)}, was); }}"
            for n in variables
        )


def of(language: str) -> Language:
    known = {"python": Python, "bash": Bash, "javascript": JavaScript, "typescript": JavaScript, "r": R, "java": Java}
    return known.get(language, Language)()
