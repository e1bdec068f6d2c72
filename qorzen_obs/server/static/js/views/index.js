// The views, in the order of the navigation. A view with an id in its address stands under its plural.

import { html } from "../../vendor/preact.js";
import { Definitions } from "./definitions.js";
import { Failures } from "./failures.js";
import { Health } from "./health.js";
import { Now } from "./now.js";
import { Task } from "./task.js";
import { Tasks } from "./tasks.js";
import { Traces } from "./traces.js";

export const VIEWS = {
  now: { title: "Now", view: Now },
  tasks: { title: "Tasks", view: ({ route }) => html`<${route.id === null ? Tasks : Task} route=${route} />` },
  definitions: { title: "By task", view: Definitions },
  failures: { title: "Failures", view: Failures },
  traces: { title: "Traces", view: Traces },
  health: { title: "Health", view: Health },
};
