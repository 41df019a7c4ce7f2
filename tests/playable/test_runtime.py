"""The page's script comes to PyTorch's numbers: twenty steps of every kind of model, in Node and in a browser."""

import base64
import copy
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import worldmodel.playable
from browser import Browser, find_browser
from playable_cases import CASES, payload, rows_of, shaken, start_of
from worldmodel.behaviour.imagination import recorded
from worldmodel.playable.arrays import Arrays
from worldmodel.playable.reference import reference

RUNTIME = Path(worldmodel.playable.__file__).parent / "templates" / "runtime.js"
IN_NODE = """
const Runtime = require(process.argv[1]);
const all = JSON.parse(require("fs").readFileSync(process.argv[2]));
const check = ({ model, stores, check }) => {
  const read = Runtime.readStores(stores);
  return Runtime.check(new Runtime.Dream(model, read), read, check);
};
console.log(JSON.stringify(Object.fromEntries(Object.entries(all).map(([name, one]) => [name, String(check(one))]))));
"""
# Both count in float64; the numbers that are compared, and the noise, are float32: half a rounding step is 6e-8.
CLOSE = 5e-7
ASKED = 1e-4  # of the page


@pytest.fixture(scope="module")
def payloads() -> dict:
    found = {name: payload(shaken(make())) for name, make in CASES.items()}
    off = copy.deepcopy(found["gaussian"])  # one weight of the recurrence is another
    dtype, text = off["stores"]["weights"]
    weights = bytearray(base64.b64decode(text))
    begins = off["model"]["cell"]["gates"]["weight"][1]
    weights[4 * begins : 4 * begins + 4] = struct.pack("<f", 3.0)
    off["stores"] = {**off["stores"], "weights": (dtype, base64.b64encode(weights).decode())}
    lost = copy.deepcopy(found["gaussian"])
    numbers = np.frombuffer(base64.b64decode(lost["stores"]["numbers"][1]), "<f4").copy()
    numbers[lost["check"]["expected"]["goes_on"][1]] = np.nan
    lost["stores"] = {**lost["stores"], "numbers": ("float32", base64.b64encode(numbers.tobytes()).decode())}
    return found | {"another weight": off, "a number that is none": lost}


def by_node(payloads: dict, folder: Path) -> dict[str, float]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    (folder / "payloads.json").write_text(json.dumps(payloads))
    command = [node, "-e", IN_NODE, str(RUNTIME), str(folder / "payloads.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name: float(off) for name, off in json.loads(done.stdout).items()}


def by_browser(payloads: dict, folder: Path) -> dict[str, float]:
    program = find_browser()
    if program is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    (folder / "page.html").write_text(f"<!DOCTYPE html><title>test</title><script>{RUNTIME.read_text()}</script>")
    browser = Browser(program, folder / "profile")
    try:
        browser.open(folder / "page.html")
        check = "const read = Runtime.readStores(one.stores);"
        check += "return String(Runtime.check(new Runtime.Dream(one.model, read), read, one.check));"
        off = {name: browser.run(f"((one) => {{ {check} }})({json.dumps(one)})") for name, one in payloads.items()}
    finally:
        browser.close()
    return {name: float(value) for name, value in off.items()}


@pytest.fixture(scope="module", params=[by_node, by_browser])
def differences(request, payloads, tmp_path_factory) -> dict[str, float]:
    return request.param(payloads, tmp_path_factory.mktemp("runtime"))


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_pytorchs(differences, name):
    assert differences[name] < CLOSE


def test_what_differs_is_seen(differences):
    assert differences["another weight"] > ASKED and differences["a number that is none"] == float("inf")


@pytest.mark.parametrize("name", CASES)
def test_what_the_page_is_compared_with_is_what_the_model_imagines_in_float32(name):
    model, arrays = shaken(CASES[name]()), Arrays()
    action = rows_of(model, 1, 21).prev_action[0, 1:]
    kept = reference(model, start_of(model), action, arrays, seed=0)
    numbers = np.frombuffer(base64.b64decode(arrays.texts()["numbers"][1]), "<f4")

    def look(reference):
        _, begins, *shape = reference
        return torch.from_numpy(numbers[begins : begins + int(np.prod(shape))].reshape(shape).copy())

    start = start_of(model)
    given = look(kept["noise"]).unflatten(-1, model.noise(1, 1).shape[2:])[None]
    with torch.no_grad():
        states, _ = model.imagine(model.dynamics.carry_of(start), start, recorded(action[None], 1), given)
        decoded = model.decode(states)
    expected = kept["expected"]
    torch.testing.assert_close(look(expected["h"]), states.deter[0], atol=ASKED, rtol=ASKED)
    torch.testing.assert_close(look(expected["z"]), states.stoch[0], atol=ASKED, rtol=ASKED)
    for (path, leaf), kept_one in zip(model.spec.observations.items(), expected["outputs"], strict=False):
        mean = decoded[path].mean[0].flatten(1)[:, :: kept_one["every"]]
        torch.testing.assert_close(look(kept_one["mean"]), mean, atol=ASKED, rtol=ASKED, msg=f"{path}, {leaf.kind}")
    assert len(expected["outputs"]) == len(model.spec.observations) + 1
