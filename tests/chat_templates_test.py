"""Chat templates: what each says, by hand; and where transformers is installed, what it renders."""

import datetime
import json
import resource
import threading

import pytest

from gdsd_jax import chat_templates

TURNS = [
    {"role": "user", "content": "1 < 2 \u00e9", "tool_calls": None},
    {"role": "assistant", "content": "yes", "thinking": "hm"},
    {"role": "user", "content": "b"},
]
EACH = "{% for turn in messages %}"
# name -> (template, the text)
SAYS = {
    "break": (
        EACH + "{% if loop.index > 1 %}{% break %}{% endif %}{{ turn.role }}{% endfor %}",
        "user",
    ),
    "continue": (
        EACH
        + "{% if turn.role == 'user' %}{% continue %}{% endif %}{{ turn.content }}{% endfor %}",
        "yes",
    ),
    "generation": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "21",
    ),
    "generation, trimmed": ("a\n  {%- generation -%}\n  b {%- endgeneration %}\n c", "ab c"),
    "tojson": ("{{ messages[0].content | tojson }}", '"1 < 2 \u00e9"'),
    "tojson, ascii": ("{{ messages[0].content | tojson(ensure_ascii=True) }}", '"1 < 2 \\u00e9"'),
    "tojson, indent": (
        "{{ [1, {'b': '<&>'}] | tojson(indent=1) }}",
        '[\n 1,\n {\n  "b": "<&>"\n }\n]',
    ),
    "tojson, positions": ("{{ '\u00e9' | tojson(true) }}", '"\\u00e9"'),
    "tojson, sorted": (
        "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}",
        '{"a":2,"b":1}',
    ),
    "trim_blocks": ("{% if true %}\na\n{% endif %}\nb", "a\nb"),
    "lstrip_blocks": ("a\n   {% if true %}b{% endif %}\n   {# no #}\nc", "a\nbc"),
    "last newline": ("a\n", "a"),
    "undefined": (
        "[{{ nothing }}]{% if nothing is defined %}x{% endif %}[{{ messages[9] }}]",
        "[][]",
    ),
    "no escapes": ("{{ '<b>&' }}", "<b>&"),
    "namespace": (
        "{% set n = namespace(a=1) %}" + EACH + "{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
        "4",
    ),
    "namespace, self": ("{% set n = namespace(self=1) %}{{ n.self }}", "1"),
    "dict": ("{{ dict(a=1) | tojson }}{{ dict.fromkeys(['x'], 2) | tojson }}", '{"a": 1}{"x": 2}'),
    "strftime_now": ("{{ strftime_now('%Y') }}", str(datetime.datetime.now().year)),
    "null entries": ("{{ messages[0].tool_calls is defined }}", "False"),
    "reasoning": ("{{ messages[1].reasoning_content }} {{ messages[1].thinking }}", "hm hm"),
    "tools": ("{{ tools is none }} {{ documents is none }}", "True True"),
    "prompt": ("{% if add_generation_prompt %}<a>{% endif %}", "<a>"),
}
REFUSES = {
    "raise_exception": "{{ raise_exception('only one turn') }}",
    "undefined": "{{ nothing.there }}",
    "sandbox": "{{ ''.__class__.__mro__ }}",
    "sandbox, change": "{{ messages.append(1) }}",
    "namespace, hidden": "{% set n = namespace(_a=1) %}",
    "namespace, set hidden": "{% set n = namespace() %}{% set n._a = 1 %}",
    "division": "{{ 1 / 0 }}",
    "type": "{{ messages[0].content + 1 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}
DOES_NOT_COMPILE = ("{% if %}", "{{ x | nothing }}", "{% unknown %}", "{% generation %}a", "{{ ")


def rendered(text: str) -> str:
    template = chat_templates.environment().from_string(text)
    arguments = {"add_generation_prompt": True, "tools": None, "documents": None}
    return chat_templates.render(template, TURNS, arguments)


@pytest.mark.parametrize("name", SAYS)
def test_templates_say_what_they_should(name):
    template, said = SAYS[name]
    assert rendered(template) == said


@pytest.mark.parametrize("name", REFUSES)
def test_what_a_template_raises_is_one_line(name):
    with pytest.raises(ValueError) as error:
        rendered(REFUSES[name])
    assert str(error.value) and "\n" not in str(error.value)


def test_the_words_of_a_refusal_come_through():
    with pytest.raises(ValueError, match="^only one turn$"):
        rendered(REFUSES["raise_exception"])


@pytest.mark.parametrize("text", DOES_NOT_COMPILE)
def test_templates_that_do_not_compile_are_named(tmp_path, text):
    (tmp_path / "chat_template.jinja").write_text(text)
    with pytest.raises(ValueError, match="the chat template of .* does not compile: "):
        chat_templates.read(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ 'a' * 9999999999 }}", "more than 1024 MiB"),
        ("{{ '%09999999999d' % 1 }}", "more than 1024 MiB"),
        (
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
            "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "more than 1024 MiB",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 0.5 s",
        ),
    ],
)
def test_templates_without_end_are_named(tmp_path, monkeypatch, text, said):
    if said.endswith(" s"):
        monkeypatch.setattr(chat_templates, "MOST_S", 0.5)
    before, threads = resource.getrlimit(resource.RLIMIT_AS), threading.active_count()
    with pytest.raises(ValueError, match=f"the chat template of .* rendered: it takes {said}"):
        chat_templates.read(tmp_path, {"chat_template": text})
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert threading.active_count() <= threads


def test_where_the_template_is(tmp_path):
    """One text, a list of named ones or an object of them; a file goes before all."""

    def said(config):
        found = chat_templates.read(tmp_path, config)
        return None if found is None else found.render()

    assert said({}) is None and said({"chat_template": None}) is None
    assert said({"chat_template": "a"}) == "a"
    assert said({"chat_template": ""}) == ""  # there is one, and it says nothing
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert said({"chat_template": named}) == "d"
    assert said({"chat_template": {"default": "d"}}) == "d"
    assert said({"chat_template": named[:1]}) is None
    (tmp_path / "chat_template.jinja").write_text("f")
    assert said({"chat_template": "a"}) == "f"


def test_transformers_renders_the_same():
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")

    def render(text: str) -> str:
        turns = [{key: value for key, value in turn.items() if value is not None} for turn in TURNS]
        texts, _ = theirs.render_jinja_template(
            [json.loads(json.dumps(turns))], chat_template=text, add_generation_prompt=True
        )
        return texts[0]

    for name, (text, _) in SAYS.items():
        assert render(text) == rendered(text), name
    for name, text in REFUSES.items():
        with pytest.raises(Exception):  # noqa: B017 - whichever, ours is told in one line
            render(text)
            pytest.fail(name)
