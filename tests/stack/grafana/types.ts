// What Grafana's own types say a dashboard is, with the options of each kind of panel that we draw.
import type { Dashboard } from "@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type { Options as Logs } from "@grafana/schema/dist/types/raw/composable/logs/panelcfg/x/types.gen";
import type { Options as Stat } from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as States from "@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen";
import type * as Table from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as Lines from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

export interface Checked {
  dashboard: Dashboard;
  options: {
    logs: Partial<Logs>;
    stat: Partial<Stat>;
    "state-timeline": Partial<States.Options>;
    table: Partial<Table.Options>;
    timeseries: Partial<Lines.Options>;
  };
  fields: {
    "state-timeline": Partial<States.FieldConfig>;
    table: Partial<Table.FieldConfig>;
    timeseries: Partial<Lines.FieldConfig>;
  };
}
