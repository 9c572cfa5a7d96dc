"""Chat templates of Hugging Face folders, rendered to the letter as transformers renders them.

Templates are programs from elsewhere: jinja2's sandbox runs them, with the tags, filters and
globals that transformers gives them and no others.
"""

from collections.abc import Mapping, Sequence
import datetime
import json
from typing import Any

from etils import epath
import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from gdsd_jax import bounds, json_files
from gdsd_jax.mistakes import one_line

MOST_S, MOST_BYTES = 10.0, 1 << 30  # of compiling a template and rendering one word
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a turn's reasoning


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant wrote, and changes
    nothing."""

    tags = {"generation"}

    def parse(self, parser) -> jinja2.nodes.Node:
        """The body in a scope of its own, as that of a call block is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """`namespace(...)` of templates, without names that begin with an underscore."""

    def __init__(*args, **kwargs):  # so that a name may be "self"
        self, *args = args
        found = dict(*args, **kwargs)
        for name in found:
            refuse_hidden(name)
        jinja2.utils.Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        refuse_hidden(name)
        super().__setitem__(name, value)


class Dict:
    """`dict(...)` of templates, which gives no class into their hands."""

    def __call__(self, *args, **kwargs) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs) -> dict:
        """As dict's."""
        return dict.fromkeys(*args, **kwargs)


def refuse_hidden(name: Any) -> None:
    """jinja2's SecurityError for a name that begins with an underscore."""
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace holds no hidden name such as {name!r}")


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def strftime_now(form: str) -> str:
    """The present date as templates write it."""
    return datetime.datetime.now().strftime(form)


# The day that templates are told which write one: prompts of a run are the same whenever it begins
# or goes on. It is the one that Llama 3's own templates write where they are told none.
ONE_DAY = {"strftime_now": datetime.date(2024, 7, 26).strftime}


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON as transformers writes it into a prompt: letters as they are, no HTML escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment() -> jinja2.Environment:
    """What templates are compiled in: transformers' tags, filters and globals."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = strftime_now
    made.globals["dict"] = Dict()
    made.globals["namespace"] = Namespace
    return made


def read(folder: epath.Path, config: Mapping[str, Any]) -> jinja2.Template | None:
    """The chat template of a folder; None where there is none.

    Args:
      folder: chat_template.jinja in it goes before the config.
      config: of tokenizer_config.json; of several named templates the "default" is taken.

    Raises:
      ValueError: it is no text, does not compile, or takes for ever or all memory to render a word;
        one line.
    """
    try:
        source = source_in(folder, config)
        return None if source is None else compiled(source)
    except (TimeoutError, MemoryError) as error:
        reason = f"cannot be rendered: {one_line(error)}"
    except jinja2.TemplateError as error:
        reason = f"does not compile: {one_line(error)}"
    except (OSError, ValueError, RecursionError) as error:
        reason = f"cannot be read: {one_line(error)}"
    raise ValueError(f"the chat template of {folder} {reason}") from None


def source_in(folder: epath.Path, config: Mapping[str, Any]) -> str | None:
    """The text of the template that `read` compiles."""
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else source_of(config)


def compiled(source: str) -> jinja2.Template:
    """The template, which has rendered the shortest conversation; what it refuses in that is no
    mistake of it."""

    def compile_and_render() -> jinja2.Template:
        template = environment().from_string(source)  # computes what is constant
        try:
            template.render(messages=[{"role": "user", "content": "a"}], add_generation_prompt=True)
        except MemoryError:
            raise
        except Exception:
            return template  # as `render` will say
        return template

    return bounds.within(MOST_S, MOST_BYTES, compile_and_render)


def source_of(config: Mapping[str, Any]) -> str | None:
    """The text of the template in tokenizer_config.json."""
    found = config.get("chat_template")
    if isinstance(found, list):  # several named templates
        found = {
            json_files.entry(one, "name", "text"): json_files.entry(one, "template", "text")
            for one in found
            if isinstance(one, dict)
        }
    if not isinstance(found, dict):
        return json_files.entry(config, "chat_template", "text", None)
    return json_files.entry(found, "default", "text", None)


def render(
    template: jinja2.Template, turns: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> str:
    """A conversation as the template writes it.

    Entries of a turn that are None do not exist for it, and reasoning has each of its names.

    Raises:
      ValueError: the template refuses the conversation, or fails; one line.
    """
    try:
        return template.render(messages=[turn_of(turn) for turn in turns], **arguments)
    except Exception as error:  # a template may do anything that fails in Python
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        raise ValueError(f"{kind}{one_line(error)}") from None


def turn_of(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with the entries that transformers shows to templates."""
    found = {name: value for name, value in turn.items() if value is not None}
    reasoning = next((found[name] for name in REASONING if name in found), None)
    if reasoning is None:
        return found
    return {"thinking": reasoning, **found, "reasoning_content": reasoning}
