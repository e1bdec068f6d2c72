// The views, in the order of the navigation. A view with an id in its address stands under its plural.

import { Now } from "./now.js";

export const VIEWS = {
  now: { title: "Now", view: Now },
};
