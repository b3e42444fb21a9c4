"""The demo as a visitor meets it, in a real browser: the few steps that must never break. The rest is in the slow tests."""

from demo_browser import give, ranked, refusal, serious_findings, try_sample, visit


def test_a_search_its_filters_and_its_re_ranking(browser, served, sample):
    with visit(browser, served[0]) as page:
        first = try_sample(page)
        assert len(first) == 12 and "of 16" in page.locator(".hat-summary").first.inner_text()
        assert {camid for _, camid, _ in first} == {1, 2} - {sample.camid}
        assert [value for _, _, value in first] == sorted((value for _, _, value in first), reverse=True)
        framed = page.locator("#hat-results .hat-right").count(), page.locator("#hat-results .hat-wrong").count()
        assert framed == (sum(pid == sample.pid for pid, _, _ in first), sum(pid != sample.pid for pid, _, _ in first))
        steps = page.locator(".hat-timings").inner_text()
        assert "search" in steps and "re-rank" not in steps

        page.get_by_label("Leave out the query's own camera").uncheck()
        page.wait_for_selector(".hat-summary >> text=of 32")
        page.wait_for_selector(f"#hat-results >> text=camera {sample.camid}")

        page.get_by_label("Re-rank by common neighbors").check()
        page.wait_for_selector(".hat-timings >> text=re-rank")
        assert "re-ranking" in page.locator(".hat-summary").first.inner_text()

        page.locator("#hat-results .hat-card").nth(2).click()
        page.wait_for_function("document.querySelector('#hat-details dd')?.innerText.startsWith('3')")
        assert page.locator("#hat-results [aria-pressed=true]").count() == 1
        assert serious_findings(page) == []


def test_an_upload_and_a_file_that_is_no_image(browser, served, tmp_path, make_image):
    wrong = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    wrong.write_bytes(b"MZ this is no image")
    with visit(browser, served[0]) as page:
        give(page, "#hat-query-files", wrong)
        assert "not an image" in refusal(page)
        give(page, "#hat-query-files", make_image(tmp_path / "noise.png"))
        assert len(ranked(page)) == 12
        assert page.locator("#hat-query .hat-name").all_inner_texts() == ["noise.png"]
        assert page.locator("#hat-results .hat-right, #hat-results .hat-wrong").count() == 0


def test_two_visitors_do_not_see_each_other(browser, served):
    with visit(browser, served[0]) as one, visit(browser, served[0]) as other:
        names = []
        for number, page in enumerate((one, other)):
            try_sample(page, number)
            names.append(page.locator("#hat-query .hat-name").all_inner_texts())
        assert names[0] != names[1] and [len(name) for name in names] == [1, 1]
        one.get_by_label("Re-rank by common neighbors").check()
        one.wait_for_selector(".hat-timings >> text=re-rank")
        assert one.locator("#hat-query .hat-name").all_inner_texts() == names[0]
        assert other.locator("#hat-query .hat-name").all_inner_texts() == names[1]
