"""Broadcasts each event to the payment's owner, by Supabase's Realtime. Off by default.

`alembic upgrade head` with SUPABASE_REALTIME=on creates a trigger and a row policy, and with `off`
removes both. The trigger runs when an event is listed (feed.py), in a transaction that moves no
money. A broadcast is a hint: if Realtime refuses it, the event is still listed and published, and
the owner reads the payment.

The functions of the schema `realtime` are Supabase's. We know them from its documentation: our
tests use stand-ins, and a real project has not been tried.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from domain.adapters.settings.errors import raise_as_settings_error

SETTING = "SUPABASE_REALTIME"

# An owner's private topic is this and its `sub`.
TOPIC = "payments:"

_HAS_REALTIME = text("""
SELECT to_regprocedure('realtime.send(jsonb, text, text, boolean)') IS NOT NULL
    AND to_regprocedure('realtime.topic()') IS NOT NULL
    AND to_regclass('realtime.messages') IS NOT NULL
""")

# An error in a trigger would undo the listing of the whole batch, so it becomes a warning. The
# warning does not quote the message, which has a phone number.
_CREATE_FUNCTION = f"""
CREATE OR REPLACE FUNCTION mkwanja.broadcast_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM realtime.send(
        history.event_body::jsonb, history.event_type, '{TOPIC}' || NEW.owner, true)
    FROM mkwanja.payment_history AS history WHERE history.id = NEW.history_id;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'mkwanja: event % was not broadcast (SQLSTATE %)', NEW.history_id, SQLSTATE;
    RETURN NULL;
END $$
"""
_CREATE_TRIGGER = """
CREATE OR REPLACE TRIGGER broadcasts_event AFTER INSERT ON mkwanja.events
FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION mkwanja.broadcast_event()
"""
_CREATE_POLICY = f"""
CREATE POLICY mkwanja_owner_hears_own_payments ON realtime.messages FOR SELECT TO authenticated
USING (extension = 'broadcast'
    AND (SELECT realtime.topic()) = '{TOPIC}' || (SELECT mkwanja_api.signed_in_user()))
"""

_DROP_POLICY = "DROP POLICY IF EXISTS mkwanja_owner_hears_own_payments ON realtime.messages"
_ON = (_CREATE_FUNCTION, _CREATE_TRIGGER, _DROP_POLICY, _CREATE_POLICY)
_OFF = (
    "DROP TRIGGER IF EXISTS broadcasts_event ON mkwanja.events",
    "DROP FUNCTION IF EXISTS mkwanja.broadcast_event()",
    _DROP_POLICY,
)


def set_broadcasts(connection: Connection, *, is_on: bool) -> None:
    """Creates or removes the trigger and the policy, in the transaction of `alembic upgrade head`.

    Raises SettingsError if the database has no Realtime.
    """
    if is_on and not connection.execute(_HAS_REALTIME).scalar():
        with raise_as_settings_error(SETTING):
            raise ValueError("the database has no Realtime of Supabase; set it to off")
    for statement in _ON if is_on else _OFF:
        connection.exec_driver_sql(statement)
