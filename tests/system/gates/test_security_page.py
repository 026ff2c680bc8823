"""docs/security.md claims what tests hold: each of its sentences has its tests here, and each of these exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "security.md"

#: Advice, or what is said not to be so: nothing to hold.
SAID = "no claim"

DOCTOR = "tests/llmtune/cli/test_doctor.py::"
SECRETS = "tests/llmtune/redaction/test_secrets.py::"
COMMANDS = "tests/system/gates/test_commands.py::"
ODD = "tests/system/gates/test_odd_answers.py::"
PROCESSES = "tests/system/test_processes.py::"
PRIVATE_FOLDER = (
    "tests/llmtune/_safety/test_private_files.py::test_missing_folders_are_made_for_this_user_and_others_stay"
)
QUIET = PROCESSES + "test_a_local_run_stays_on_this_machine_and_to_itself"

#: Words of a sentence, and what holds it.
HELD: list[tuple[str, str]] = [
    ("run store: jobs, states", QUIET),
    ("answers of models, kept", QUIET),
    ("local runs: worker's log", QUIET),
    ("rows as they are sent to a vendor", QUIET),
    ("files that clients of `llmtune serve --tuning` uploaded", PRIVATE_FOLDER),
    ("rows as tokens, for local training", QUIET),
    ("rows that `import` and `rescue` fetch", PRIVATE_FOLDER),
    ("what you asked to be written", QUIET),
    ("The home folder is `LLMTUNE_HOME`", "tests/llmtune/test_config.py::test_the_nearest_place_wins"),
    ("`llmtune config show` names it", "tests/llmtune/cli/test_app.py::test_config_show_never_shows_a_secret"),
    ("These modes hold whatever the umask is", QUIET),
    ("Reports and stores hold rows of your data", SAID),
    ("To delete everything on this machine", SAID),
    (
        "To delete what llmtune made at vendors",
        "tests/llmtune/runs/test_finalize.py::test_cleanup_removes_what_we_made_and_nothing_else",
    ),
    ("`--models` removes tuned models too", "tests/llmtune/cli/test_runs.py::test_cleanup"),
    ("By command, in one table", SAID),
    ("send nothing to a vendor", COMMANDS + "test_commands_that_send_nothing"),
    ("are fetched from the Hugging Face Hub", SAID),
    ("`--provider local` sends nothing", QUIET),
    (
        "The one exception is named by the job itself",
        "tests/llmtune/runs/test_judge.py::test_no_judge_is_asked_unless_the_job_names_one",
    ),
    (
        "`evaluation.judge` sends the judged test rows",
        "tests/llmtune/planning/test_judge.py::test_a_hosted_judge_is_priced_and_said_to_get_the_rows",
    ),
    (
        "`llmtune plan` says so before",
        "tests/llmtune/planning/test_judge.py::test_a_hosted_judge_is_priced_and_said_to_get_the_rows",
    ),
    ("What is judged is data", "tests/llmtune/runs/test_judge.py::test_an_answer_that_gives_orders_is_data"),
    (
        "A hosted backend gets the training and validation rows",
        "tests/providers/llmtune_openai/test_provider.py::test_the_body_on_the_wire_is_the_body_of_the_plan_and_the_key",
    ),
    (
        "The exact requests are shown",
        "tests/providers/llmtune_openai/test_provider.py::test_the_body_on_the_wire_is_the_body_of_the_plan_and_the_key",
    ),
    ("read lists from the backends that are ready", DOCTOR + "test_online_asks_and_a_refusal_is_a_line"),
    (
        "`rescue` reads the old job",
        "tests/llmtune/rescues/test_rescue.py::test_answers_are_not_paid_for_without_consent",
    ),
    ("send curves to those services", PROCESSES + "test_a_tracker_calls_nobody_but_its_own_server"),
    ("sends no telemetry", QUIET),
    (
        "The telemetry of the libraries",
        "tests/llmtune/_safety/test_telemetry.py::test_what_is_unset_is_set_and_what_is_set_stands",
    ),
    ("Ray asks the cloud's metadata address", PROCESSES + "test_a_cluster_of_this_machine_reports_nothing"),
    (
        "A request that may cost money goes to the configured host",
        "tests/system/test_redirects.py::test_a_paid_request_is_not_sent_on_to_another_host",
    ),
    ("Addresses that an answer names", "tests/llmtune/provider/test_http.py::test_addresses_elsewhere_are_not"),
    ("Each vendor's own SDK finds its credentials", SAID),
    ("is replaced by `***`", COMMANDS + "test_no_output_leaks"),
    ("A secret of 20 characters or more", SECRETS + "test_a_secret_is_a_whole_token_and_a_long_one_is_found_anywhere"),
    ("A shorter one looks like an ordinary word", SECRETS + "test_a_short_secret_is_taken_out_of_headers_alone"),
    ("names its variable", "tests/system/gates/test_leaks.py::test_doctor_names_keys_that_are_too_short"),
    ("In addresses, user, password", SECRETS + "test_addresses_keep_all_but_their_credentials"),
    ("What is sent is never changed", SECRETS + "test_a_job_that_holds_a_key_is_refused"),
    (
        "`llmtune data check` warns of such a value",
        "tests/system/gates/test_leaks.py::test_a_job_with_the_key_is_refused_and_a_row_reported",
    ),
    ("The ids that a vendor gives", "tests/system/gates/test_leaks.py::test_every_command_about_a_run"),
    ("Rows and models' answers are data", COMMANDS + "test_no_file_holds_the_key"),
    ("A key in them is masked", COMMANDS + "test_no_output_leaks"),
    ("Warnings of the vendors' SDKs", SAID),
    ("Control characters of other people's texts", COMMANDS + "test_no_output_leaks"),
    ("The processes that train here get none of these keys", QUIET),
    (
        "refuse every request of a web page of another site",
        "tests/llmtune/server/test_guard.py::test_every_route_refuses_a_page_of_another_site",
    ),
    (
        "Without a key, `serve` answers on loopback",
        "tests/llmtune/server/test_server.py::test_without_a_key_only_this_machine_is_answered",
    ),
    (
        "hashes (SHA-256) of the keys of a team's members",
        "tests/llmtune/server/tuning/test_keys.py::test_a_key_is_made_found_and_removed",
    ),
    (
        "A header that is not there after 20 seconds",
        "tests/llmtune/server/test_connection.py::test_two_hundred_slow_senders_of_a_header_are_closed_with_an_error",
    ),
    (
        "A body that is malformed",
        "tests/llmtune/server/test_guard.py::test_an_odd_body_is_refused_in_the_shape_of_the_api",
    ),
    ("What a vendor answers, and what a provider hands on", ODD + "test_a_poll_survives"),
    ("What is not is a warning", ODD + "test_everything_survives"),
    ("Whatever a vendor answers to an upload", ODD + "test_upload_submit_find_fetch_download_and_inventory_survive"),
    ("An answer without an answer in it", ODD + "test_no_answer_is_no_wrong_answer"),
    (
        "An answer that cannot be read at all",
        "tests/llmtune/runs/test_poller.py::test_an_adapter_that_keeps_breaking_stops_the_wait",
    ),
    ("What others wrote in files is refused", SAID),
    ("job files and imported configurations", "tests/llmtune/job/test_files.py::test_an_odd_file_is_one_sentence"),
    (
        "jobs built in Python",
        "tests/llmtune/job/test_spec.py::test_texts_that_nothing_can_hold_are_refused_in_python_as_in_files",
    ),
    (
        "rows: 256 MiB and 200 levels",
        "tests/llmtune/data/io/test_json_lines.py::test_a_value_that_does_not_end_is_not_held_whole",
    ),
    (
        "chat templates: run in Jinja's sandbox",
        "tests/llmtune/data/rendering/test_chat_template.py::test_an_endless_template_is_one_sentence_after_little_computing",
    ),
    ("Memory is not bounded", SAID),
    (
        "archives of weights",
        "tests/providers/llmtune_together/test_weights.py::test_only_regular_files_of_an_adapter_are_taken",
    ),
    (
        "CSV files hold texts as they are",
        "tests/llmtune/data/io/test_writing.py::test_formulas_are_warned_of_and_written_as_they_are",
    ),
    ("How to report a vulnerability", SAID),
]


def sentences() -> list[str]:
    """The sentences of the page: of paragraphs and bullets, and the rows of its table."""
    blocks: list[str] = []
    for line in PAGE.read_text().splitlines():
        line = line.strip()
        if line.startswith(("|---", "| what |", "#")) or not line:
            blocks.append("")
        elif line.startswith(("|", "- ")) or not blocks or not blocks[-1]:
            blocks.append(line)
        else:
            blocks[-1] += f" {line}"
    found: list[str] = []
    for block in filter(None, blocks):
        found += [block] if block.startswith("|") else re.split(r"(?<=[.;!)])\s+(?=[A-Z`(*])", block.removeprefix("- "))
    return found


def test_each_sentence_has_its_test() -> None:
    unheld = [text for text in sentences() if not any(words in text for words, _ in HELD)]
    assert not unheld, "\n".join(unheld)
    unsaid = [words for words, _ in HELD if not any(words in text for text in sentences())]
    assert not unsaid, "\n".join(unsaid)


def test_each_named_test_is_there() -> None:
    for words, name in HELD:
        if name == SAID:
            continue
        path, _, function = name.partition("::")
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text(), re.MULTILINE), f"{words}: {name}"
