"""org.freedesktop.systemd1 as far as runtimes use it: transient scopes, on whatever bus DBUS_SYSTEM_BUS_ADDRESS names.

Each call is a JSON line in the file given; a scope is a real cgroup in every hierarchy, and its PIDs are moved there.
"""

import json
import os
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

NAME = "org.freedesktop.systemd1"
MANAGER = NAME + ".Manager"
log, failing = sys.argv[1], sys.argv[2:]


def plain(value):
    if isinstance(value, dbus.Boolean):
        return bool(value)
    if isinstance(value, (dbus.Array, dbus.Struct, list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, int):
        return int(value)
    return str(value)


def write(name, **fields):
    with open(log, "a") as file:
        file.write(json.dumps(dict(call=name, **fields)) + "\n")


def hierarchies():
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, right = line.split(" - ")
            if right.split()[0] in ("cgroup", "cgroup2") and left.split()[3] == "/":
                yield left.split()[4]


def fill(folder):
    parent = os.path.dirname(folder)
    for name in ("cpuset.cpus", "cpuset.mems"):
        path = os.path.join(folder, name)
        if os.path.exists(path) and not open(path).read().strip():
            open(path, "w").write(open(os.path.join(parent, name)).read().strip())


class Manager(dbus.service.Object):
    job = 0
    units = {}

    def __init__(self, bus):
        super().__init__(bus, "/org/freedesktop/systemd1")

    def done(self, unit, result="done"):
        Manager.job += 1
        path = dbus.ObjectPath(f"/org/freedesktop/systemd1/job/{Manager.job}")
        number = Manager.job
        GLib.timeout_add(20, lambda: self.JobRemoved(number, path, unit, result) and False)
        return path

    @dbus.service.signal(MANAGER, signature="uoss")
    def JobRemoved(self, number, path, unit, result):
        pass

    @dbus.service.method(MANAGER, in_signature="ssa(sv)a(sa(sv))", out_signature="o")
    def StartTransientUnit(self, unit, mode, properties, auxiliary):
        given = {str(name): plain(value) for name, value in properties}
        write("start", unit=str(unit), mode=str(mode), properties=given)
        if "exists" in failing and unit not in Manager.units:
            Manager.units[unit] = []
            raise dbus.exceptions.DBusException("it is there", name=NAME + ".UnitExists")
        if "fails" in failing:
            return self.done(unit, "failed")
        stem = str(given["Slice"]).removesuffix(".slice").split("-")
        parts = ["-".join(stem[: n + 1]) + ".slice" for n in range(len(stem))] + [str(unit)]
        made = []
        for mount in hierarchies():
            folder = mount
            for part in parts:
                folder = os.path.join(folder, part)
                if not os.path.isdir(folder):
                    os.mkdir(folder)
                    fill(folder)
                    made.append(folder)
            for pid in given["PIDs"]:
                open(os.path.join(folder, "cgroup.procs"), "w").write(str(pid))
        Manager.units[unit] = made
        return self.done(unit)

    @dbus.service.method(MANAGER, in_signature="ss", out_signature="o")
    def StopUnit(self, unit, mode):
        write("stop", unit=str(unit))
        if unit not in Manager.units:
            raise dbus.exceptions.DBusException("no such unit", name=NAME + ".NoSuchUnit")
        for folder in reversed(Manager.units.pop(unit)):
            try:
                os.rmdir(folder)
            except OSError as error:
                write("left", folder=folder, error=str(error))
        return self.done(unit)

    @dbus.service.method(MANAGER, in_signature="sba(sv)")
    def SetUnitProperties(self, unit, runtime, properties):
        given = {str(name): plain(value) for name, value in properties}
        write("set", unit=str(unit), runtime=bool(runtime), properties=given)

    @dbus.service.method(MANAGER, in_signature="s")
    def ResetFailedUnit(self, unit):
        write("reset", unit=str(unit))

    @dbus.service.method("org.freedesktop.DBus.Properties", in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return {"Version": "252", "ControlGroup": "/mock"}[str(name)]


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.bus.BusConnection(os.environ["DBUS_SYSTEM_BUS_ADDRESS"])
manager = Manager(bus)
name = dbus.service.BusName(NAME, bus)
print("ready", flush=True)
GLib.MainLoop().run()
