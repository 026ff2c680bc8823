"""Images of rows: their marks in the text, their places among the tokens, and the rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch

from llmtune.data.example import Example, ImagePart
from llmtune.data.formats.chat import CHAT
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.batching.token_rows import TokenRow, read_image_rows, tokenise
from llmtune_local.images.reader import ModelImages
from llmtune_local.models.loading import load_images, load_tokenizer
from tests.providers.llmtune_local.images import shapes

RED, BLUE = (shapes.data_url(shapes.picture(shapes.COLOURS[name])) for name in ("red", "blue"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.build("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture
def reader(base: Path) -> ModelImages:
    images = load_images(str(base), None, load_tokenizer(str(base)))
    assert isinstance(images, ModelImages)
    return images


def example(*turns: tuple[str, Any]) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return CHAT.read({"messages": messages}, 7, [])


def shown(*parts: str) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith(("data:", "http", "/"))
        else {"type": "text", "text": part}
        for part in parts
    ]


def render(reader: Any, row: Example) -> Any:
    return Renderer(reader.tokenizer, file="rows.jsonl", images=reader).render(row)


def test_an_image_has_its_tokens_where_it_stands_and_only_answers_are_trained(reader: ModelImages) -> None:
    row = example(("user", shown("before", RED, "between", BLUE)), ("assistant", "red and blue"), ("user", "ok?"))
    (rendered,) = render(reader, row)
    decoded = reader.tokenizer.decode(rendered.ids)
    marks = "<image>" * 4  # 16 pixels in patches of 8
    assert f"before{marks}between{marks}" in decoded
    trained = [token for token, learned in zip(rendered.ids, rendered.completion_mask, strict=True) if learned]
    assert reader.tokenizer.decode(trained) == "red and blue<|im_end|>"
    placed = reader.place(rendered.images, rendered.ids)
    assert [rendered.ids[image.first - 1] != reader.token for image in placed] == [True, True]
    assert placed[0].digest != placed[1].digest


def test_what_follows_the_last_answer_is_cut_with_its_images(reader: ModelImages) -> None:
    row = example(("user", shown(RED, "this")), ("assistant", "red"), ("user", shown("and", BLUE)))
    (rendered,) = render(reader, row)
    whole = TokenRow.of(rendered, reader)
    assert len(whole.images) == 2
    stop = int(whole.completion.nonzero()[0][-1]) + 1
    cut = whole.cut(0, stop)
    assert [image.digest for image in cut.images] == [whole.images[0].digest]
    assert (cut.ids == reader.token).sum() == 4
    assert whole.cut(2).images[1].first == whole.images[1].first - 2


def test_the_inputs_of_several_images_are_joined_in_their_order(reader: ModelImages) -> None:
    placed = [
        reader.place(
            render(reader, example(("user", shown(url, "?")), ("assistant", "x")))[0].images, [reader.token] * 4
        )
        for url in (RED, BLUE, RED)
    ]
    ids = torch.full((3, 5), reader.token)
    pixels = reader.inputs(ids, [image for row in placed for image in row])["pixel_values"]
    assert pixels.shape == (3, 3, 16, 16)
    assert torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], pixels[1])


def test_images_are_written_once_to_the_folder_of_a_run(base: Path, tmp_path: Path) -> None:
    tokenizer, keep = load_tokenizer(str(base)), tmp_path / "images"
    reader = load_images(str(base), None, tokenizer, keep=keep)
    rows = [CHAT.read(row, 1, []) for row in (shapes.row("red", RED), shapes.row("red", RED), shapes.row("blue", BLUE))]
    token_rows = tokenise(tokenizer, rows, images=reader)
    assert len(list(keep.iterdir())) == 2
    image = token_rows.rows[0][0].images[0]
    assert isinstance(image.content, Path)
    assert image.read() == shapes.picture(shapes.COLOURS["red"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (example(("user", shown("https://example.org/a.png")), ("assistant", "x")), "nothing is fetched here"),
        (example(("user", shown("/etc/passwd")), ("assistant", "x")), "none is opened"),
        (example(("user", "what is <image>?"), ("assistant", "x")), "the text holds '<image>', which stands for an"),
        (example(("user", shown(RED, "<image>")), ("assistant", "x")), r"\(2 of them, and 1 images\)"),
        (example(("user", shown(*[RED] * 65)), ("assistant", "x")), "65 images in the row; at most 64"),
        (
            example(("user", "Draw"), ("assistant", shown(RED))),
            "turn 2 is the assistant's and holds an image, which the model cannot produce",
        ),
        (Example(text="a text with <image> in it", line=7), "the text holds '<image>'"),
        (
            example(("user", [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]), ("assistant", "x")),
            "holds an image or another part that is not text",
        ),
    ],
)
def test_rows_that_cannot_be_shown_are_refused_by_their_line(reader: ModelImages, row: Example, says: str) -> None:
    with pytest.raises(InvalidData, match=says) as problem:
        render(reader, row)
    assert "rows.jsonl:7" in str(problem.value)


def test_a_template_that_leaves_out_images_is_refused(reader: ModelImages) -> None:
    tokenizer = load_tokenizer(str(reader.config.name_or_path), None, "chatml")
    row = example(("user", shown(RED, "this")), ("assistant", "red"))
    with pytest.raises(InvalidData):
        Renderer(tokenizer, images=reader).render(row)


def test_a_long_row_with_images_is_dropped_or_refused_and_never_truncated(reader: ModelImages) -> None:
    renderer = Renderer(reader.tokenizer, images=reader)
    (row,) = renderer.render(example(("user", shown(RED, "this is long")), ("assistant", "red")))
    assert renderer.fit(row, len(row.ids), "truncate") is row
    assert renderer.fit(row, 10, "drop") is None
    with pytest.raises(InvalidData, match="a row with images is not truncated"):
        renderer.fit(row, 10, "truncate")


def test_a_text_model_and_one_that_is_not_read_here_say_so(base: Path) -> None:
    row = example(("user", shown(RED, "this")), ("assistant", "red"))
    tokenizer = load_tokenizer("tiny")
    with pytest.raises(InvalidData, match=r"'tiny' is a .* model, which reads text alone"):
        Renderer(tokenizer, images=load_images("tiny", None, tokenizer)).render(row)


def test_a_model_without_an_image_processor_is_named(tmp_path: Path) -> None:
    base = shapes.build("llava", tmp_path)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (base / name).unlink(missing_ok=True)
    reader: Any = load_images(str(base), None, load_tokenizer(str(base)))
    render(reader, example(("user", "hello"), ("assistant", "x")))  # a text needs none
    with pytest.raises(InvalidJob, match=r"the image processor of .* cannot be loaded"):
        render(reader, example(("user", shown(RED)), ("assistant", "x")))


def test_of_files_without_images_no_row_is_read_here(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    reader = load_images(str(base), None, tokenizer)
    text = {"messages": [{"role": "user", "content": "image_url?"}, {"role": "assistant", "content": "a name"}]}
    path = shapes.write_rows(tmp_path / "rows.jsonl", [text])
    settings: Any = {"limit": None, "on_too_long": "error"}
    assert read_image_rows(tokenizer, str(path), reader, **settings) is None
    shapes.write_rows(path, [text, shapes.row("red", RED)])
    rows = read_image_rows(tokenizer, str(path), reader, **settings)
    assert rows is not None
    assert [len(row[0].images) for row in rows.rows] == [0, 1]


def test_tokens_are_counted_by_size_without_decoding_every_image(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    reader: Any = load_images(str(base), None, tokenizer, decode=False)
    text = f"{reader.mark} and {reader.mark}"
    broken = shapes.picture((1, 2, 3))
    parts = [ImagePart(shapes.data_url(content)) for content in (shapes.picture((1, 2, 3)), broken[:-20] + b"\0" * 20)]
    assert reader.expand(text, parts) == f"{'<image>' * 4} and {'<image>' * 4}"


def test_the_limit_on_pixels_makes_images_of_fewer_tokens(tmp_path: Path) -> None:
    base = shapes.build("qwen3_vl", tmp_path)
    tokenizer = load_tokenizer(str(base))
    row = example(("user", shown(shapes.data_url(shapes.picture((9, 9, 9), size=(32, 32))))), ("assistant", "x"))
    counts = []
    for max_pixels in (None, 256):
        reader: Any = load_images(str(base), None, tokenizer, max_pixels=max_pixels)
        counts.append(render(reader, row)[0].ids.count(reader.token))
    assert counts == [4, 1]


def test_rows_read_from_a_vendors_format_are_shown_alike(reader: ModelImages, tmp_path: Path) -> None:
    from llmtune.data.io.reading import load

    data = RED.partition(",")[2]
    row = {
        "contents": [
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": data}}, {"text": "Which?"}]},
            {"role": "model", "parts": [{"text": "red"}]},
        ]
    }
    path = tmp_path / "gemini.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (read,) = load(path)
    (rendered,) = render(reader, read)
    assert rendered.ids.count(reader.token) == 4


@pytest.mark.parametrize("kind", ["openai", "vertex"])
def test_the_rows_are_those_that_vendors_writers_take(kind: str, reader: ModelImages) -> None:
    from llmtune.data.formats.registry import all_formats, get_writer, vendors

    rules = vendors()[kind]
    rows = [CHAT.read(row, 1, []) for row in shapes.squares(4)]
    writer = get_writer(rules.defaults["sft"])
    for row in rows:
        assert [finding for finding in rules.row_rules(row, "sft", None) if finding.is_error] == []
        assert [problem for problem in writer.problems(row) if problem.is_error] == []
        faults: list[Any] = []
        again = all_formats()[writer.name].read(writer.write(row), 1, faults)
        assert faults == []
        (written,), (before,) = render(reader, again), render(reader, row)
        assert written.ids == before.ids
        placed = [reader.place(rendered.images, rendered.ids) for rendered in (written, before)]
        assert placed[0] == placed[1]
