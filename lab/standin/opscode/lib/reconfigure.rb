# frozen_string_literal: true

# chef-server-ctl reconfigure and test.
class Reconfigure
  MIGRATION_LEVEL = '{"major":1,"minor":34}'
  SERVICES = %w[bookshelf nginx oc_bifrost oc_id opscode-erchef redis_lb].freeze

  def self.status
    return 'not configured yet' unless File.exist?(Places.sentinel)

    SERVICES.map { |name| "run: #{name}: (stand-in, no such process)" }
  end

  def initialize
    @settings = Settings.read(Places.chef_server_rb)
    @backend = Backend.new(@settings)
    @preflight = Preflight.new(@settings, @backend)
  end

  def run
    @preflight.configuration
    Haproxy.new(@settings).configure if @settings.use_chef_backend
    first_run = !File.exist?(Places.sentinel)
    @preflight.postgresql(first_run: first_run, secrets: Secrets.there?)
    search = Search.new(@settings)
    search.check
    secrets = Secrets.complete(@settings)
    Bootstrap.run(@backend, secrets) if first_run
    log_in(secrets)
    search.make_index
    finish
    puts "Chef Infra Server #{Places.version} (stand-in) configured as #{@settings.api_fqdn}"
  end

  # What a running front end would do all the time.
  def test
    log_in(Secrets.complete(@settings))
    Search.new(@settings).check
    puts 'PostgreSQL and search answer'
  end

  private

  def log_in(secrets)
    Bootstrap::PASSWORDS.each do |role, (group, name)|
      database = role.delete_suffix('_ro')
      @backend.query('select 1', user: role, password: secrets.fetch(group).fetch(name), database: database)
    end
  rescue Backend::Refused => e
    raise Failure, "the services cannot log in: #{e.message}"
  end

  def finish
    Places.write(Places.migration_level, MIGRATION_LEVEL) unless File.exist?(Places.migration_level)
    Places.write(Places.sentinel, "bootstrapped on #{Time.now.utc.iso8601}\n") unless File.exist?(Places.sentinel)
  end
end
