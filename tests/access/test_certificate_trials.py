"""What becomes of trials of certificates that end after the files have changed once more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.access.certificate_files import CertificateFiles
from runtimestore_server.access.rules import Unusable
from runtimestore_server.access.tls import Certificates
from support.generators.certificates import DAY, intermediate, issued
from support.servers.access import files_of, put

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", [b"garbage", b""])
@pytest.mark.parametrize("sound", [True, False])
def test_what_is_told_of_files_outlasts_the_trial_of_those_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, sound: bool
) -> None:
    files = files_of(tmp_path, issued(intermediate()), intermediate())
    certificates = Certificates(files["tls_cert"], files["tls_key"], None)
    before, goes_on, tried = certificates.validity, threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        assert goes_on.wait(10)
        tried.set()
        if not sound:
            raise Unusable("the trial failed")

    monkeypatch.setattr(CertificateFiles, "try_out", slow)
    files_of(tmp_path, issued(intermediate(), kind="secp384r1", ends=99 * DAY), intermediate())
    certificates.look()
    put(files["tls_cert"], content)
    certificates.look()
    told = certificates.unusable
    assert told is not None
    goes_on.set()
    trial = certificates._trial  # nothing else tells that a trial has ended
    assert trial is not None
    trial.join(10)
    assert tried.is_set()
    assert certificates.unusable == told
    assert certificates.validity == before


def test_what_fails_its_trial_gives_way_to_the_last_that_passed_though_the_trial_of_one_before_was_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(tmp_path, issued(intermediate()), intermediate())
    certificates = Certificates(files["tls_cert"], files["tls_key"], None)
    goes_on = threading.Event()
    tried: list[int] = []

    def slow_then_sound_then_not(*_: object) -> None:
        tried.append(len(tried))
        if tried[-1] == 0:
            assert goes_on.wait(10)
        if tried[-1] == 2:
            raise Unusable("the trial failed")

    def put_on_trial(days: int) -> threading.Thread:
        files_of(tmp_path, issued(intermediate(), ends=days * DAY), intermediate())
        certificates.look()
        trial = certificates._trial  # nothing else tells that a trial has ended
        assert trial is not None
        return trial

    monkeypatch.setattr(CertificateFiles, "try_out", slow_then_sound_then_not)
    put_on_trial(97)
    second = put_on_trial(98)
    sound = certificates.validity
    second.join(0.2)  # which would be enough, if it did not wait for the first
    goes_on.set()
    second.join(10)
    put_on_trial(99).join(10)

    assert tried == [0, 1, 2]
    assert certificates.unusable == "the trial failed"
    assert certificates.validity == sound
