"""What plugs into the OpenTelemetry SDK. Importing this package imports none of it."""
