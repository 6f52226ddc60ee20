FROM fluent/fluentd:v1.18.0-debian-1.0
USER 0
# Users by number, so that Kubernetes sees that the last one is not root; the build fails if it is not the image's own.
RUN test "$(id -u fluent)" = 999 \
    && gem install --no-document fluent-plugin-s3:1.8.3 \
    && mkdir -p /var/log/fluentd/buffer \
    && chown -R fluent /var/log/fluentd
USER 999
