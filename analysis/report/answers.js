// Answers by arm, seed, evaluation, outcome and question. All texts go in by textContent: none is markup.
"use strict";
{
  const PER_PAGE = 50;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("index").textContent);
  const { runs, questions, outcomes, starts, shown } = data;
  const controls = ["mode", "block", "arm", "seed", "evaluation", "outcome", "search", "beside"].map(at);
  const [mode, block, arm, seed, evaluation, outcome, search, beside] = controls;
  const unpacked = new Map();
  let listed = [];
  let page = 0;
  let question = null;
  let drawing = 0;

  const element = (tag, text = "", kind = "") => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const unique = (values) => [...new Set(values)];
  const named = (letter) => outcomes[letter.charCodeAt(0) - 65];
  const training = () => mode.value === "training";
  const source = () => (training() ? shown : questions);
  const textOf = (place) => (training() ? shown.question : questions.text)[place] ?? "";

  // Texts are packed; the blocks that were looked at last stay open.
  const unpack = async (id) => {
    if (!unpacked.has(id)) {
      const packed = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      unpacked.set(id, JSON.parse(await new Response(stream).text()));
      if (unpacked.size > 8) unpacked.delete(unpacked.keys().next().value);
    }
    return unpacked.get(id);
  };

  const seeded = () =>
    runs
      .map((run, place) => ({ ...run, place }))
      .filter((run) => run.block === block.value && (seed.value === "" || run.seed === Number(seed.value)));
  const scoped = () => seeded().filter((run) => arm.value === "" || run.arm === arm.value);
  const chosen = (run) => {
    const all = run.evaluations;
    if (evaluation.value === "both") return all;
    return evaluation.value === "first" ? all.slice(0, 1) : all.slice(-1);
  };
  const right = (made, place) => named(made.verdicts[place]) === "right";

  // Whether a question is listed, of what the controls choose.
  const wanted = (place, ofArm, ofSeed) => {
    const value = outcome.value;
    if (value === "disagree") {
      const last = ofSeed.flatMap((run) => run.evaluations.slice(-1));
      const verdicts = last.filter((one) => one.verdicts[place] !== "-");
      return unique(verdicts.map((one) => right(one, place))).length > 1;
    }
    if (value === "gained" || value === "lost") {
      return ofArm.some(({ evaluations: [first, last] }) => {
        if (!last || first.verdicts[place] === "-" || last.verdicts[place] === "-") return false;
        return right(first, place) !== right(last, place) && right(last, place) === (value === "gained");
      });
    }
    return ofArm.some((run) =>
      chosen(run).some((one) => {
        const letter = one.verdicts[place];
        if (letter === "-") return false;
        if (value === "cut") return one.cut[place] === "1";
        return value === "" || (value === "not right" ? !right(one, place) : named(letter) === value);
      }),
    );
  };

  const shownRows = (place) => {
    const places = new Set(scoped().map((run) => run.place));
    return shown.rows.filter(([run, , uid]) => uid === place && places.has(run));
  };

  const fill = () => {
    const text = search.value.toLowerCase();
    const matches = (place) =>
      !text || `${source().uid[place]} ${textOf(place)}`.toLowerCase().includes(text);
    if (training()) {
      const value = outcome.value;
      const places = new Set(scoped().map((run) => run.place));
      const rows = shown.rows.filter(
        ([run, , , letter]) =>
          places.has(run) &&
          (value === "" || (value === "not right" ? named(letter) !== "right" : named(letter) === value)),
      );
      listed = unique(rows.map(([, , uid]) => uid)).filter(matches);
    } else {
      const [ofArm, ofSeed] = [scoped(), seeded()];
      const all = questions.uid.map((_, place) => place);
      listed = all.filter((place) => matches(place) && wanted(place, ofArm, ofSeed));
    }
    if (!listed.includes(question)) question = listed.length ? listed[0] : null;
    page = question === null ? 0 : Math.floor(listed.indexOf(question) / PER_PAGE);
    list();
    draw();
  };

  // One letter an arm, in their order: whether its answer is right.
  const marks = (place) => {
    if (training()) return "";
    const letters = seeded().map((run) => {
      const [one] = chosen(run).slice(-1);
      if (!one || one.verdicts[place] === "-") return "·";
      return right(one, place) ? "✓" : "✗";
    });
    const count = letters.filter((one) => one === "✓").length;
    return letters.length > 16 ? `${count}/${letters.length} ✓` : letters.join("");
  };

  const list = () => {
    const rows = listed.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((place) => {
      const button = element("button");
      button.type = "button";
      button.dataset.place = place;
      button.append(element("span", source().uid[place], "uid"), element("span", marks(place), "marks"));
      button.append(element("span", textOf(place).slice(0, 90), "start"));
      if (place === question) button.setAttribute("aria-current", "true");
      const row = element("li");
      row.append(button);
      return row;
    });
    at("list").replaceChildren(...rows);
    const pages = Math.ceil(listed.length / PER_PAGE);
    const [some, all] = [listed.length, source().uid.length].map((count) => count.toLocaleString("en"));
    at("count").textContent = `${some} of ${all} questions`;
    at("pages").textContent = pages > 1 ? `page ${page + 1} of ${pages}` : "";
    at("earlier").disabled = page === 0;
    at("later").disabled = page + 1 >= pages;
  };

  const kind = (verdict) => (verdict === "right" ? "right" : "wrong");
  const article = (head, verdict, look, body, foot) => {
    const made = element("article", "", `answer ${look}`);
    const header = element("header");
    header.append(element("span", head), element("b", verdict));
    made.append(header, body, element("small", foot, "quiet"));
    return made;
  };

  const answered = async (place) => {
    if (place >= data.full) {
      return [element("p", "Its answers are not in this page, which is full; they are in eval/ of the runs.", "quiet")];
    }
    const at_block = starts.findLastIndex((start) => start <= place);
    const { texts, answers } = await unpack(`answers-${at_block}`);
    return (beside.checked ? seeded() : scoped()).flatMap((run) =>
      chosen(run).map((one) => {
        const which = run.evaluations.indexOf(one);
        const text = answers[place - starts[at_block]][run.place][which];
        const name = [run.arm, seed.value === "" && `seed ${run.seed}`, `step ${one.step}`].filter(Boolean).join(", ");
        if (text < 0) return article(name, "not asked", "", element("pre"), "");
        const verdict = named(one.verdicts[place]);
        const cut = one.cut[place] === "1" ? ", cut" : "";
        const foot = `${one.tokens[place]} tokens${cut}`;
        const made = article(name, verdict, kind(verdict), element("pre", texts[text]), foot);
        if (beside.checked && arm.value === run.arm) made.classList.add("picked");
        return made;
      }),
    );
  };

  const tokens = ({ pieces, weights, spans }) => {
    const box = element("div", "", "tokens");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "tokens: arrow keys go through them");
    const inside = new Map();
    for (const span of spans) for (let token = span[0]; token < span[1]; token++) inside.set(token, span);
    box.append(
      ...pieces.flatMap((piece, place) => {
        if (!piece || weights[place] === undefined) return piece ? [piece] : [];
        const [span, weight] = [inside.get(place), weights[place]];
        const made = element("span", piece, `token ${weight > 1 ? "up" : "down"}${span ? " span" : ""}`);
        made.style.setProperty("--s", Math.min(Math.abs(weight - 1), 1).toFixed(2));
        made.title = `weight ${weight.toFixed(2)}` + (span ? `; ${span[2]}, drop ${span[3].toFixed(2)}` : "");
        return [made];
      }),
    );
    return box;
  };

  const trained = (place) =>
    Promise.all(
      shownRows(place).map(async ([run, step, , letter, reward, row]) => {
        const kept = (await unpack(`shown-${run}`))[row];
        const name = `${runs[run].arm}, seed ${runs[run].seed}, step ${step}`;
        const verdict = named(letter);
        const earned = reward === null ? "no verdict" : `reward ${Number(reward.toPrecision(4))}`;
        return article(name, verdict, kind(verdict), tokens(kept), `${kept.weights.length} tokens, ${earned}`);
      }),
    );

  const draw = async () => {
    const turn = ++drawing;
    remember();
    if (question === null) {
      at("panel").replaceChildren(element("p", "No question is like that.", "quiet"));
      return;
    }
    const place = question;
    const head = element("h2", source().uid[place]);
    const gold = element("p", "Gold: ", "quiet");
    gold.append(element("span", source().gold[place]));
    const pairs = !training() && evaluation.value === "both";
    const grid = element("div", "", pairs ? "answers pairs" : "answers");
    grid.append(...(training() ? await trained(place) : await answered(place)));
    // A later choice has overtaken this one.
    if (turn !== drawing) return;
    at("panel").replaceChildren(head, element("p", textOf(place), "question"), gold, grid);
  };

  const choose = (place, focus = false) => {
    question = place;
    page = Math.floor(listed.indexOf(place) / PER_PAGE);
    list();
    const button = at("list").querySelector("[aria-current]");
    if (focus) button?.focus();
    else button?.scrollIntoView({ block: "nearest" });
    return draw();
  };
  const beyond = (step, focus) => {
    const place = listed[listed.indexOf(question) + step];
    if (place !== undefined) choose(place, focus);
  };

  // The choice stands in the address, so that it can be linked to.
  const remember = () => {
    const values = new URLSearchParams();
    for (const control of controls) {
      const value = control.type === "checkbox" ? (control.checked ? "" : "no") : control.value;
      if (value !== (control.dataset.usual ?? "")) values.set(control.id, value);
    }
    if (question !== null) values.set("question", source().uid[question]);
    history.replaceState(null, "", `#${values}`);
  };
  const recall = () => {
    const values = new URLSearchParams(location.hash.slice(1));
    for (const control of controls) {
      const value = values.get(control.id) ?? control.dataset.usual ?? "";
      if (control.type === "checkbox") control.checked = value !== "no";
      else if (control === search || [...control.options].some((one) => one.value === value)) control.value = value;
    }
    offer();
    const place = source().uid.indexOf(values.get("question"));
    question = place < 0 ? null : place;
  };

  const options = (control, entries, usual = entries[0][0]) => {
    const before = control.value;
    control.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    control.dataset.usual = usual;
    control.value = entries.some(([value]) => value === before) ? before : usual;
    control.closest("label").hidden = entries.length < 2;
  };
  const offer = () => {
    const steps = unique(runs.map((run) => run.evaluations.map((one) => one.step).join(" and ")));
    const both = runs.some((run) => run.evaluations.length > 1);
    const which = [["last", "last"], ...(both ? [["first", "first"], ["both", "first and last"]] : [])];
    if (steps.length === 1 && both) which[2][1] += ` (steps ${steps[0]})`;
    options(evaluation, training() ? [["last", "last"]] : which);
    const turned = [["disagree", "arms disagree"], ["gained", "turned right"], ["lost", "turned wrong"]];
    const compared = training() ? [] : [["cut", "truncated"], ...turned];
    const plain = outcomes.map((name) => [name, name]);
    options(outcome, [["", "any"], ["not right", "anything but right"], ...plain, ...compared]);
    beside.closest("label").hidden = training();
  };

  const modes = [["evaluation", "answers of evaluations"], ["training", "training completions, tokens by weight"]];
  options(mode, modes.filter(([name]) => (name === "training" ? shown.rows.length : questions.uid.length)));
  options(block, unique(runs.map((run) => run.block)).map((name) => [name, name]));
  options(arm, [["", "all"], ...unique(runs.map((run) => run.arm)).map((name) => [name, name])]);
  const seeds = unique(runs.map((run) => run.seed)).sort((one, other) => one - other);
  options(seed, [...seeds.map((value) => [String(value), String(value)]), ...(seeds.length > 1 ? [["", "all"]] : [])]);
  offer();

  for (const control of controls) {
    control.addEventListener(control.type === "search" ? "input" : "change", () => {
      if (control === mode) {
        offer();
        question = null;
      }
      fill();
    });
  }
  at("choose").addEventListener("submit", (event) => event.preventDefault());
  at("list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    choose(Number(button.dataset.place), true).then(() => {
      if (matchMedia("(max-width: 700px)").matches) at("panel").scrollIntoView();
    });
  });
  at("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    beyond(step, true);
  });
  const turn = (step) => {
    page += step;
    question = listed[page * PER_PAGE];
    choose(question);
  };
  at("earlier").addEventListener("click", () => turn(-1));
  at("later").addEventListener("click", () => turn(1));
  at("before").addEventListener("click", () => beyond(-1));
  at("next").addEventListener("click", () => beyond(1));
  addEventListener("hashchange", () => {
    recall();
    fill();
  });
  if (typeof DecompressionStream === "undefined") {
    at("panel").textContent = "This browser cannot unpack the answers: it takes one of 2023 or later.";
  } else {
    recall();
    fill();
  }
}
