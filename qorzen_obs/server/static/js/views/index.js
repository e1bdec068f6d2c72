// The views, in the order of the navigation. A view with an id in its address stands under its plural.

import { Now } from "./now.js";
import { Task } from "./task.js";
import { Traces } from "./traces.js";

export const VIEWS = {
  now: { title: "Now", view: Now },
  tasks: { title: null, view: ({ route }) => (route.id === null ? Now({ route }) : Task({ route })) },
  traces: { title: "Traces", view: Traces },
};
