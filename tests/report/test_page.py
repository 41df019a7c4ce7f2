"""A run's page: every number of its folder, nothing that is not there, no way out of the file."""

import dataclasses
import re
from dataclasses import replace

import pytest

from run_folder import ROWS, Page, add_acting, add_everything, add_squared_error, png, write_run
from worldmodel.config import Config
from worldmodel.report import sections
from worldmodel.report.page import page
from worldmodel.report.record import read_record

DEFAULTS = dataclasses.asdict(Config())


def read(folder, defaults=DEFAULTS) -> Page:
    return Page(page(read_record(folder), defaults))


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Page:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", loss={"beta": 0.1}, seed=7)
    return read(add_everything(folder))


def test_a_whole_run_has_every_section_and_a_contents_that_leads_to_it(full):
    expected = ["bound", "ledger", "kl", "imagination", "optimisation", "pictures", "time", "configuration", "versions"]
    expected.remove("optimisation")  # the folder has no gradient norms
    assert full.sections == [*expected, "notes"]
    assert [a["href"] for a in full.all("a")] == [f"#{anchor}" for anchor in full.sections]


def test_the_headline_says_the_bound_its_terms_and_how_the_run_ended(full):
    assert "Finished · 100 updates on 7,000 env steps · seed 7" in full.text
    assert re.search(r"1\.125\s*ELBO=\s*2\.000\s*log p\(obs\)−\s*0\.875\s*KL", full.text)
    assert "best held-out ELBO1.125 at update 100" in full.text
    assert "best return" not in full.text  # of an older run, or one that does not act
    assert "pixels, bits per dimension0.438" in full.text
    assert "active latent groups3 of 8" in full.text
    assert "open-loop error, obs0.062" in full.text


def test_a_full_covariance_is_a_single_latent_group(tmp_path):
    rows = [{**row, "heldout_kl/active_units": 1} if "heldout_kl/active_units" in row else row for row in ROWS]
    full = read(write_run(tmp_path / "run", rows=rows, rssm={"latent": "gaussian_full", "stoch": 8}))
    assert "active latent groups1 of 1" in full.text


def test_a_run_from_stored_rows_is_named_by_them_and_ends_where_it_was_asked_to(tmp_path):
    offline = {"offline": "minari:pen/human-v2", "training": {"updates": 100, "env_steps": 20_000}}
    text = read(write_run(tmp_path / "run", **offline)).text
    assert "minari:pen/human-v2" in text.split("Finished")[0] and "Pendulum" not in text.split("The bound")[0]
    assert "at update 50 of 100" in read(write_run(tmp_path / "half", rows=ROWS[:3], **offline)).text


def test_the_bound_and_the_ledger_are_tables_of_first_and_last(full):
    bound, ledger = [{row[0]: row[1:] for row in table} for table in full.tables if table[0][0] == "nats per step"]
    assert bound["ELBO"] == ["-3.500", "1.125", "1.125", "1.500"]
    assert bound["KL"] == ["2.250", "0.875", "0.875", "0.625"]
    assert bound["log p(obs)"] == ["-1.250", "2.000", "2.000", "2.125"]
    assert ledger["negative bound"][:2] == ["4.000", "-1.500"]
    assert ledger["+ beta"][:2] == ["-0.750", "-0.200"]
    assert ledger["= the loss"][:2] == ["3.250", "-1.700"]
    assert "A row that is far from zero is a trick" in full.text


def test_a_run_that_acts_shows_it_first_with_its_film_and_its_dream(tmp_path):
    found = read(add_acting(add_everything(write_run(tmp_path / "run"))))
    assert found.sections[:2] == ["acting", "bound"]
    drawn = {svg["aria-label"] for svg in found.all("svg")}
    assert {"Returns", "Discounted return, predicted and real", "Bound on its own episodes"} <= drawn
    assert "Rough evidence of its own episodes" in drawn
    assert "return, last evaluation-950.0" in found.text
    assert "best return-900.0" in found.text
    film, dream = found.all("img")[:2]
    assert film["src"].startswith("data:image/gif;base64,") and film["alt"] == "Film of actor"
    assert dream["src"].startswith("data:image/png;base64,") and dream["alt"] == "The dream beside the world"
    repeated = {"Acting", "Acting dream"}  # the pictures of what the section has
    assert not repeated & {image["alt"] for image in found.all("img")}


def test_a_run_that_does_not_act_says_nothing_of_it(full):
    assert "acting" not in full.sections and "Acting:" not in full.text and "return, last" not in full.text


def test_the_continue_head_is_shown_beside_what_came_by_the_last_evaluation_alone(tmp_path):
    rows = read(add_acting(write_run(tmp_path / "run"))).table("probability of ending, predicted")
    assert [*rows.items()][1:] == [
        ("0 and more", ["980", "0.0002", "0"]),
        ("0.01 and more", ["20", "0.0400", "0.0500"]),
    ]


def test_episodes_that_cannot_end_have_no_such_table(tmp_path):
    record = read_record(write_run(tmp_path / "run"))
    never = {f"acting_ending/0/{name}": value for name, value in (("steps", 9), ("predicted", 1e-5), ("happened", 0))}
    ended = {**never, "acting_ending/0/happened": 0.1}
    shown = [sections.acting(replace(record, rows=({"update": 1, **row},))) for row in (never, ended)]
    assert [len(blocks) for blocks in shown] == [0, 1]


def test_the_film_of_the_dream_stands_above_everything_else(tmp_path):
    folder = add_acting(write_run(tmp_path / "run"))
    (folder / "play" / "dream.gif").write_bytes(png("GIF"))
    text = page(read_record(folder))
    shown = [image["alt"] for image in Page(text).all("img")]
    assert shown == ["The world, and the dream of it", "Film of actor", "The dream beside the world"]
    assert text.index('alt="The world, and the dream of it"') < text.index("<svg") < text.index('alt="Film of actor"')


def test_a_film_of_first_rows_stands_behind_the_whole_one_and_says_what_it_is(tmp_path):
    folder = add_acting(write_run(tmp_path / "run"))
    (folder / "play" / "actor_first_20_rows.gif").write_bytes(png("GIF"))
    shown = [image["alt"] for image in read(folder).all("img")]
    assert shown[:2] == ["Film of actor", "Film of actor, the first 20 rows"]


def test_a_narrow_screen_shows_the_whole_width_of_a_film(tmp_path):
    text = page(read_record(add_acting(write_run(tmp_path / "run"))))
    wide = re.findall(r"(figure\.wide img\S*) \{ min-width", text)
    assert wide == ['figure.wide img:not([src^="data:image/gif"])'] and 'src="data:image/gif;' in text


def test_films_have_only_so_much_of_a_page(tmp_path, monkeypatch):
    folder = add_acting(write_run(tmp_path / "run"))
    (folder / "play" / "mppi.gif").write_bytes(png("GIF"))
    asked = []
    monkeypatch.setattr(sections, "lighter_gif", lambda gif, limit: asked.append(limit) or gif)
    page(read_record(folder))
    assert asked == [sections.FILM_BYTES // 2] * 2 and sections.FILM_BYTES * 4 / 3 < 5e6


def test_the_kl_is_summarised_and_drawn_from_every_side(full):
    rows = full.table("KL of a step, last evaluation")
    assert rows["mean"] == ["0.875", "–"]
    assert rows["share under 1 nat"] == ["37.5%", "–"]
    assert rows["active latent groups"] == ["3", "–"]
    drawn = {svg["aria-label"] for svg in full.all("svg")}
    assert {
        *("KL per step over training", "KL by place in the sequence", "KL by steps since the reset"),
        *("KL by latent group", "Surprise along one held-out episode"),
    } <= drawn


def test_imagination_has_its_scores_at_a_few_horizons_and_its_pictures(full):
    assert "5 episodes, 40 futures, 16 samples each, 8 steps of context" in full.text
    (scores,) = [table for table in full.tables if table[0][0] == "score"]
    assert scores == [
        ["score", "of", "1 ahead", "2 ahead", "4 ahead"],
        ["obs: CRPS", "the model", "0.110", "0.120", "0.140"],
        ["obs: CRPS", "last step repeated", "0.310", "0.320", "0.340"],
        ["obs: coverage", "the model", "0.860", "0.870", "0.890"],
    ]
    (covered,) = [table for table in full.tables if table[0][0] == "inside 90 % intervals"]
    assert covered[1:] == [["obs", "0.86", "0.87", "0.89", ""]]
    shown = [image["alt"] for image in full.all("img")]
    assert shown == ["Futures of obs", "Film of obs", "Something else"]  # the others are drawn by sections


def test_a_page_shows_one_squared_error_of_imagination_the_scored_one_where_there_is_one(tmp_path):
    folder = add_everything(write_run(tmp_path / "run"))
    for scored in (False, True):
        if scored:
            add_squared_error(folder)
        shown = read(folder)
        drawn = {svg["aria-label"] for svg in shown.all("svg")}
        assert ("Open-loop error: obs" in drawn) is ("open-loop error, obs0.062" in shown.text) is not scored
        assert ("obs: squared error" in drawn) is ("squared error, obs0.250" in shown.text) is scored
        assert ("error² / held-out variance" in shown.text) is not scored
        assert ("squared error / training variance" in shown.text) is scored
        assert ("in units of the variance of the held-out episodes themselves" in shown.text) is not scored
        assert ("in units of the training data's variance" in shown.text) is scored
        assert "Open loop" not in [image["alt"] for image in shown.all("img")]


def test_all_text_stands_in_a_paragraph_a_heading_a_list_or_a_table(full, tmp_path):
    assert full.stray == ""
    rough = [{"update": u, "heldout_evidence/gap": 0.1, "heldout_evidence/ess": 0.5} for u in (1, 2)]
    folder = add_acting(add_everything(write_run(tmp_path / "run", rough)))
    found = read(folder)
    assert "measures it in full" in found.text and found.stray == ""


def test_reconstructions_stand_with_imagination_and_what_is_filmed_is_folded(tmp_path):
    folder = add_acting(add_everything(write_run(tmp_path / "run")))
    (folder / "figures" / "reconstruction_obs.png").write_bytes(png())
    (folder / "imagination" / "film_obs.png").write_bytes(png())
    (folder / "play" / "dream.gif").write_bytes(png("GIF"))
    text = page(read_record(folder))
    section = text[text.index('<section id="imagination"') :]
    section = section[: section.index("</section>")]
    assert section.index('alt="Reconstructions of obs"') < section.index('alt="Futures of obs"')
    assert text.count('alt="Reconstructions of obs"') == 1
    for words, alt in (
        ("Film strip of obs", "Film strip of obs"),
        ("The same as curves", "The dream beside the world"),
    ):
        folded = text[text.index(f"<summary>{words}") :]
        assert f'alt="{alt}"' in folded[: folded.index("</details>")]


def test_in_the_dark_curves_turn_over_and_pictures_of_what_was_seen_do_not(tmp_path):
    folder = add_acting(add_everything(write_run(tmp_path / "run")))
    turned = {image["alt"]: image.get("class") for image in read(folder).all("img")}
    assert turned["Futures of obs"] == turned["The dream beside the world"] == "inverts"
    assert turned["Film of obs"] is turned["Film of actor"] is None
    (folder / "figures" / "reconstruction_obs.png").write_bytes(png())
    turned = {image["alt"]: image.get("class") for image in read(folder).all("img")}
    assert turned["Reconstructions of obs"] is turned["The dream beside the world"] is None  # both have frames on them


def test_the_ledger_alone_is_a_table_that_folds_on_a_narrow_screen(full):
    assert [table.get("class") for table in full.all("table")].count("explained") == 1


def test_gradient_norms_have_a_colour_each(tmp_path):
    names = ("encoder", "dynamics", "decoder", "total")
    rows = [{"update": u, **{f"grad_norm/{name}": u * (i + 1.0) for i, name in enumerate(names)}} for u in (1, 2)]
    (panels,) = sections.optimisation(read_record(write_run(tmp_path / "run", rows)))
    colours = {re.search(rf'fill: (var\([\w-]+\))">{name} ', panels.charts[0].svg)[1] for name in names}
    assert len(colours) == len(names)


def test_what_the_run_took_of_its_machine_is_drawn_over_training(tmp_path):
    rows = [{"update": u, "train/elbo": 1.0, "resources/cores": 1.5, "resources/memory": 0.25 * u} for u in (1, 2)]
    found = read(write_run(tmp_path / "run", rows))
    drawn = [svg["aria-label"] for svg in found.all("svg")]
    assert "Processor" in drawn and "Memory" in drawn and "GPU memory" not in drawn
    assert "updates 2Memory 0.5" in found.text


def test_time_versions_and_settings_are_tables(full):
    stages = full.table("stage")
    assert [row.replace("\N{NO-BREAK SPACE}", " ") for row in stages["evaluate"][:2]] == ["2 min 0 s", "60.0%"]
    assert stages["in all"][0].replace("\N{NO-BREAK SPACE}", " ") == "3 min 20 s"
    versions = full.table("")
    assert versions["torch"] == ["2.6.1", "2.7.0"]
    assert versions["python"] == ["3.11.7", "–"]
    assert versions["at update"] == ["0", "50"]
    changed = full.table("setting that differs from its default")
    assert changed["loss.beta"] == ["0.1", "1.0"]
    assert changed["seed"] == ["7", "0"]
    assert "rssm.deter" not in changed
    assert "deter: 128" in full.text  # but it is among all of them


def test_the_page_needs_nothing_but_itself(tmp_path):
    text = page(read_record(add_everything(write_run(tmp_path / "run"))), DEFAULTS)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", text)
    read_page = Page(text)
    assert all(str(image["src"]).startswith("data:image/") for image in read_page.all("img"))
    assert all(str(image["href"]).startswith("data:image/") for image in read_page.all("image"))
    links = [attributes["href"] for _, attributes in read_page.tags if "href" in attributes]
    assert all(str(link).startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"url\((?!#)", text)


def test_names_are_text_and_never_markup(tmp_path):
    rows = [{"update": 1, "train/elbo": 1.0, "train/<i>": 1.0, "heldout/<i>": 1.0, "ledger/<u>": 0.5}]
    folder = write_run(tmp_path / "<b>", rows, name="<script>alert(1)</script>", env={"id": "<em>&amp;"})
    read_page = read(folder)
    assert not {"b", "i", "u", "em", "script"} & ({tag for tag, _ in read_page.tags} - {"b"})
    assert [attributes for tag, attributes in read_page.tags if tag == "b"] == [{"class": "bad"}]  # Not finished
    for said in ("<b>", "log p(<i>)", "<em>&amp;", "<script>alert(1)</script>"):
        assert said in read_page.text


def test_missing_parts_are_left_out_and_said_to_be_missing(tmp_path):
    read_page = read(write_run(tmp_path / "run", [{"update": 30, "train/elbo": -2.0, "train/kl": 0.5}]))
    assert read_page.sections == ["bound", "configuration", "notes"]
    assert "Not finished at update 30 of 100: interrupted, failed or still going" in read_page.text
    assert "Training batches (no held-out episode was scored)" in read_page.text
    assert "No held-out episodes were scored." in read_page.text
    for name in ("The ledger", "The KL", "Imagination", "Optimisation", "Time", "Versions"):
        assert f"{name}: this run's folder holds nothing for this section" in read_page.text


def test_old_pictures_stand_in_for_numbers_that_were_not_kept(tmp_path):
    folder = add_everything(write_run(tmp_path / "run", [{"update": 1, "env_steps": 4.0}]))
    for line in (folder / "lines").iterdir():
        line.unlink()
    (folder / "imagination" / "scores.json").unlink()
    shown = [image["alt"] for image in read(folder).all("img")]
    assert sorted(shown) == sorted(
        [
            "KL by latent group",
            "Futures of obs",
            "Film of obs",
            "Scores",
            "Bound",
            "Kl overview",
            "Open loop",
            "Something else",
        ]
    )


def test_what_was_damaged_is_noted_on_the_page(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"update"')
    assert "metrics.jsonl: the last line is damaged and was left out" in read(folder).text


def test_a_run_whose_numbers_are_not_finite_still_has_a_page(tmp_path):
    columns = ("train/elbo", "heldout/elbo", "heldout/kl", "ledger/beta", "kl/mean", "grad_norm/total")
    read_page = read(write_run(tmp_path / "run", [{"update": u, **dict.fromkeys(columns)} for u in (1, 2)]))
    assert "not finite" in read_page.text
    assert "No held-out episodes were scored." in read_page.text


def test_a_run_that_changed_nothing_says_so(tmp_path):
    folder = write_run(tmp_path / "run", config=DEFAULTS)
    assert "Every setting has its default." in read(folder).text
    assert "Every setting has its default." not in read(folder, defaults=None).text
    honest = [{"update": 1, "ledger/negative_elbo": 2.0, "ledger/beta": 0.0, "loss/value": 2.0}]
    assert "This run optimised the bound itself" in read(write_run(tmp_path / "honest", honest)).text
