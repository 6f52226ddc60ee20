// Reads {"promql": [...], "logql": [...], "traceql": [...]} and writes, by language, the queries that its own grammar refuses.
import { readFileSync } from "node:fs";
import { parser as logql } from "@grafana/lezer-logql";
import { parser as traceql } from "@grafana/lezer-traceql";
import { parser as promql } from "@prometheus-io/lezer-promql";

const parsers = { promql, logql, traceql };

function isWrong(parser, text) {
  let wrong = false;
  parser.parse(text).iterate({ enter: (node) => void (wrong ||= node.type.isError) });
  return wrong;
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const refused = Object.entries(asked).map(([language, texts]) => [language, texts.filter((text) => isWrong(parsers[language], text))]);
console.log(JSON.stringify(Object.fromEntries(refused)));
