// OpenAI's agents and client for JavaScript talk to a server, whose URL is the argument. Exits with 1 if an answer is
// wrong.
import {Agent, OpenAIResponsesModel, run, setTracingDisabled, tool} from "@openai/agents";
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({baseURL: `${url}/v1`, apiKey: "none"});
setTracingDisabled(true);

function expect(found, wanted) {
  if (!String(found).includes(wanted)) {
    console.error(`${wanted} is not in ${String(found).slice(0, 300)}`);
    process.exit(1);
  }
}

const stream = client.chat.completions.stream({
  model: "m", temperature: 0, messages: [{role: "user", content: "What is 12 + 30?"}],
});
expect((await stream.finalChatCompletion()).choices[0].message.content, "42");
const streamed = client.responses.stream({model: "m", temperature: 0, input: "What is 12 + 30?"});
expect((await streamed.finalResponse()).output_text, "42");

const called = [];
const calculate = tool({
  name: "calculate",
  description: "Evaluates an arithmetic expression.",
  strict: false,
  parameters: {
    type: "object",
    properties: {expression: {type: "string", description: "The expression, such as 12*34."}},
    required: ["expression"],
    additionalProperties: true,
  },
  execute: async ({expression}) => {
    called.push(expression);
    const [left, right] = expression.split("*").map(Number);
    return String(left * right);
  },
});
const model = new OpenAIResponsesModel(client, "m");
const agent = new Agent({name: "a", model, tools: [calculate], modelSettings: {temperature: 0}});
expect((await run(agent, "What is 12 * 34?")).finalOutput, "408");
expect(called, "12");
